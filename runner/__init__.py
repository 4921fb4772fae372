"""Spark Recipes: a containerized, declarative recipe runner for fine-tuning language models."""

__version__ = "0.1.0"
