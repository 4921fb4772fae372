"""Random weights that are the same on every machine: a seeded generator for every tensor's name.

A value is the sum of four 16-bit numbers of PCG64, shifted and scaled: close to normal, and made of
exact integer steps and one rounding. The usual ways to a normal number go through log and cos,
whose last bit depends on the C library.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from runner.scripts.weights.floats import Array

PARTS = 4
# Of the sum of PARTS independent uniform numbers 0 ... 65535.
MEAN = PARTS * 65535 / 2
DEVIATION = math.sqrt(PARTS * (65536**2 - 1) / 12)
BLOCK = 1 << 22  # values that are made at a time


def generator(name: str, seed: int) -> np.random.PCG64:
    """The bit generator of one tensor."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.PCG64(int.from_bytes(digest, "big"))


def random_blocks(name: str, count: int, deviation: float, seed: int = 0) -> Iterator[Array]:
    """`count` values of standard deviation `deviation` around 0, as float32 [at most BLOCK]."""
    bits = generator(name, seed)
    scale = np.float32(deviation / DEVIATION)
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        parts = bits.random_raw(size).astype("<u8").view("<u2").reshape(size, PARTS)
        # Twice the distance from the mean is a whole number below 2**24: exact as float32.
        twice = 2 * parts.sum(axis=1, dtype=np.int32) - np.int32(2 * MEAN)
        yield twice.astype(np.float32) * (scale / np.float32(2))
