"""What `ollama` and `benchmark` share: the deployed file, parity, prompts."""
