"""LLaMA Factory's web UI, LLaMA Board, prepared from a recipe and started so that nothing stays."""
