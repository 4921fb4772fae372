"""Rules of a recipe that read what no schema sees: across fields, files, rows, the model.

One small function a rule; `settings.py` lists those that need the recipe alone.
"""
