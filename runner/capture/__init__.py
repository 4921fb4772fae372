"""A run of LLaMA Factory, by its web UI or command line, as a recipe."""
