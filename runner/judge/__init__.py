"""A judge: a model that is asked which of two answers to the same prompt is better."""
