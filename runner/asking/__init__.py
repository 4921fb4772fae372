"""Asking models behind Ollama or an OpenAI-compatible API, through a log that answers again."""
