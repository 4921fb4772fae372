"""Many rows, a chunk at a time: worker processes, a cluster, files in which rows wait."""
