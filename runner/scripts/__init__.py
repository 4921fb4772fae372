"""Programs run by the interpreter of a hash-locked environment; the only place that may import torch."""
