"""Add a LoRA pair to a weight, with the same bits on every machine.

The product of two float32 numbers is exact in float64, so summing such products in the order of
the rank gives the same bits with or without fused multiply-add, whatever the vector width and the
number of threads. Scaling and adding the base are rounded operations of their own, each a numpy
call whose result goes through memory, so that nothing can fuse them. No BLAS, no reductions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from runner.scripts.floats import Array, from_f64, to_f64

# Elements of one tile. Sum, product and base of a tile are 3 x 8 bytes an element: they stay in a
# core's second-level cache.
TILE = 32_768
# Elements of numpy's buffer for broadcast operands. The default (8192) makes it copy them for rows
# that are shorter, which takes four times as long as the multiplication. It changes no value.
UFUNC_BUFFER = 512


@dataclass(frozen=True, slots=True)
class LoraPair:
    """`a` [r, columns] and `b` [rows, r] as exact float64, and the scaling in float64."""

    a: Array
    b: Array
    scaling: float


def merge_rows(base: Array, dtype: str, pair: LoraPair, first: int, target: str) -> Array:
    """Rows `first`... of the weight: base + scaling * (b @ a), rounded once to `target`.

    `base` [rows, columns] is stored as `dtype`. Returns [rows, columns] in the stored `target`.
    """
    before = np.setbufsize(UFUNC_BUFFER)  # of this thread
    try:
        return _merge_tiles(base, dtype, pair, first, target)
    finally:
        np.setbufsize(before)


def _merge_tiles(base: Array, dtype: str, pair: LoraPair, first: int, target: str) -> Array:
    rows, columns = base.shape
    merged = np.empty((rows, columns), from_f64(np.empty(0), target).dtype)
    height = max(1, TILE // columns)
    width = min(columns, TILE)
    sums, products = np.empty((height, width)), np.empty((height, width))
    for top, left in _tiles(rows, columns, height, width):
        bottom, right = min(top + height, rows), min(left + width, columns)
        total = sums[: bottom - top, : right - left]
        product = products[: bottom - top, : right - left]
        b = pair.b[first + top : first + bottom]
        a = pair.a[:, left:right]
        np.multiply(b[:, 0, None], a[0], out=total)
        for k in range(1, a.shape[0]):
            np.multiply(b[:, k, None], a[k], out=product)
            np.add(total, product, out=total)
        np.multiply(total, pair.scaling, out=total)
        np.add(to_f64(base[top:bottom, left:right], dtype), total, out=total)
        merged[top:bottom, left:right] = from_f64(total, target)
    return merged


def _tiles(rows: int, columns: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield top, left


class Workers:
    """Merges several blocks of rows at once; which thread does which block changes no bit."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.count)

    def merge(self, base: Array, dtype: str, pair: LoraPair, first: int, target: str) -> Array:
        """As `merge_rows`, with the rows dealt out to the threads."""
        share = -(-base.shape[0] // self.count)
        parts = [
            self._pool.submit(merge_rows, base[top : top + share], dtype, pair, first + top, target)
            for top in range(0, base.shape[0], share)
        ]
        done = [part.result() for part in parts]
        return done[0] if len(done) == 1 else np.concatenate(done)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
