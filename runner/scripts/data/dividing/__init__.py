"""Which rows are trained on and which are held out, and how often each is there."""
