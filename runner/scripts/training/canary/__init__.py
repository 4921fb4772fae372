"""Is the base model what it should be? Looked at before hours are spent."""
