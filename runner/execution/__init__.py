"""Doing what the plan says: stages in order, each in a staging folder, results shown in a run folder."""
