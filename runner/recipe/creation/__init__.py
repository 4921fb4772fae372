"""A new recipe: what is asked, what is recommended and why, and the commented file."""
