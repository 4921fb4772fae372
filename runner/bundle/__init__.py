"""A run as one archive that another machine verifies, or runs again without a network."""
