"""Locks: a recipe with every input pinned, that can itself be run."""
