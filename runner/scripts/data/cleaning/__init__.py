"""Cleaning of rows, as `data.clean` of a recipe asks for it: every step named, counted, shown."""
