"""Is this machine ready, and for this recipe: checks that read, and change nothing."""
