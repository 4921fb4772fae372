"""Programs run by the interpreter of a hash-locked environment; the only ones that import torch."""
