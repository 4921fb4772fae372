"""The quality of finished runs, side by side: what their evaluations kept, never a training."""
