"""Trainings by LLaMA Factory's own trainers."""
