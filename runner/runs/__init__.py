"""Runs as their folders tell of them: which there are, whether they go on, how to end them."""
