"""Doing what the plan says: stages in order, results shown in a run folder."""
