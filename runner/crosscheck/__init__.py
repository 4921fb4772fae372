"""One recipe trained in several ways, and what they have in common: `recipe crosscheck`."""
