"""What `gguf` and `imatrix` share: the converter, types, metadata, perplexity."""
