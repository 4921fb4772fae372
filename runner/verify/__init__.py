"""Prove what a run claims: hash its files again, derive them again, and say where two runs part."""
