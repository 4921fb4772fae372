"""Trainings by pairs and scores."""
