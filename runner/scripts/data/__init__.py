"""Rows, conversations and their tokens: what `prepare` and `evaluate` are made of."""
