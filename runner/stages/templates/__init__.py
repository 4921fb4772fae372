"""Chat templates: those that ship, and how Ollama and the GGUF file say them."""
