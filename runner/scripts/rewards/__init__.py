"""Rewards that can be verified, what learns from them, and what is watched while it does."""
