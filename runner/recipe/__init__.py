"""Recipes: text -> places -> schema -> frozen recipe -> checks."""
