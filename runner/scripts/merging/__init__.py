"""An adapter and its base: the arithmetic of a merge, tensor by tensor."""
