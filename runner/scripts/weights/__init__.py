"""Weights in files: number formats, safetensors as a stream, the folder around them."""
