"""Tokenizers: files, pre-tokenizers, and small ones trained for shrunken twins."""
