"""What the training scripts share: batches, the adapter's layers, checkpoints, the trace."""
