"""A GGUF file as a model folder: architectures, weights, tokenizer."""
