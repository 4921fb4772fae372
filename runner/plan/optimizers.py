"""What the optimizers of `train.optim` keep for what they train, in bytes: arithmetic, no torch.

Exact but for the counter and the constants of each tensor (a few bytes; 2 kB for all in 8 bits).
A tensor is given as [rows, columns]; a vector has one column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FLOAT32 = 4
# bitsandbytes 0.50.2: a tensor of fewer numbers stays in 32 bits, as embeddings do by Transformers'
# wish; a block of the others has one float32 scale for each of the two states.
_LEAST_IN_8_BITS, _BLOCK = 4096, 256
IN_8_BITS = frozenset({"adamw_8bit", "paged_adamw_8bit"})
SMALL_STATES = IN_8_BITS | {"adafactor", "sgd"}
# Their states are memory that CUDA may move to the host's, and back for the step. On a processor,
# and where GPU and host have one memory, that changes nothing.
PAGED = frozenset({"paged_adamw_8bit", "paged_adamw_32bit"})
_LEAST_PAGED = 100_000  # numbers; what has fewer stays
# Bytes that a step needs beside for each trained number: the foreach loops make one more float32 of
# all of them at once (SGD with weight decay), the fused ones and bitsandbytes' kernels none.
_FOREACH = frozenset({"adamw_torch", "sgd"})
OPTIMIZERS = frozenset({"adamw_torch", "adamw_torch_fused", "adafactor", "sgd"}) | IN_8_BITS | PAGED


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that learns. `embedding`: it is the weight of an embedding layer."""

    rows: int
    columns: int = 1
    embedding: bool = False

    @property
    def size(self) -> int:
        """Numbers in it."""
        return self.rows * self.columns


def state_bytes(optim: str, tensors: Iterable[Tensor]) -> int:
    """Bytes that `optim` keeps from step to step for `tensors`."""
    return sum(_state(optim, tensor) for tensor in tensors)


def staying_bytes(optim: str, tensors: Iterable[Tensor]) -> int:
    """Of `state_bytes`, what is on the GPU at least: what is stepped, and what cannot leave."""
    states = [(tensor.size >= _LEAST_PAGED, _state(optim, tensor)) for tensor in tensors]
    if optim not in PAGED:
        return sum(state for _, state in states)
    largest = max((state for large, state in states if large), default=0)
    return largest + sum(state for large, state in states if not large)


def step_bytes(optim: str, tensors: Iterable[Tensor]) -> int:
    """Bytes that a step of `optim` takes on a GPU beside states and gradients."""
    sizes = [tensor.size for tensor in tensors]
    if optim in _FOREACH:
        return FLOAT32 * sum(sizes)
    if optim == "adafactor":  # tensor after tensor: the square of the gradient, and the update
        return 2 * FLOAT32 * max(sizes, default=0)
    return 0


def _state(optim: str, tensor: Tensor) -> int:
    if optim == "sgd":  # without momentum
        return 0
    if optim == "adafactor":
        factored = tensor.columns > 1
        return FLOAT32 * (tensor.rows + tensor.columns if factored else tensor.rows)
    small = tensor.size < _LEAST_IN_8_BITS
    if optim in IN_8_BITS and not small and not tensor.embedding:
        return 2 * (tensor.size + FLOAT32 * -(-tensor.size // _BLOCK))
    return 2 * FLOAT32 * tensor.size
