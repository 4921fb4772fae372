"""Add LoRA and DoRA pairs to a weight, with the same bits on every machine.

The product of two float32 numbers is exact in float64, so summing such products in the order of
the rank gives the same bits with or without fused multiply-add, whatever the vector width and the
number of threads. Scaling and adding the base are rounded operations of their own, each a numpy
call whose result goes through memory, so that nothing can fuse them. No BLAS, no reductions.

DoRA (Liu et al., 2024) scales each output's weights to a length that was trained:
m * (W + delta) / ||W + delta||. The squares below the norm are summed in a fixed order: along a row
by halving it again and again, down a column row after row. docs/decisions/0004-merge-arithmetic.md
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from runner.scripts.weights.floats import Array, from_f64, to_f64

# Elements of one tile. Sum, product and base of a tile are 3 x 8 bytes an element: they stay in a
# core's second-level cache.
TILE = 32_768
# Elements of numpy's buffer for broadcast operands. The default (8192) makes it copy them for rows
# that are shorter, which takes four times as long as the multiplication. It changes no value.
UFUNC_BUFFER = 512


class ZeroLengthError(ValueError):
    """An output whose weights are all zero has no direction that DoRA could scale."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """`a` [r, columns] and `b` [rows, r] as exact float64, and the scaling in float64.

    For DoRA one of the two is given: `magnitude` [rows], when outputs are rows; `factors`
    [columns], as of `length_factors`, when outputs are columns.
    """

    a: Array
    b: Array
    scaling: float
    magnitude: Array | None = None
    factors: Array | None = None


def merge_rows(
    base: Array, dtype: str, pairs: Sequence[LoraPair], first: int, target: str
) -> Array:
    """Rows `first`... of the weight with every pair added in order, rounded once to `target`.

    `base` [rows, columns] is stored as `dtype`. Returns [rows, columns] in the stored `target`.
    The norms of DoRA are those of the base and the pair's own addition, as in PEFT. Raises
    ZeroLengthError.
    """
    before = np.setbufsize(UFUNC_BUFFER)  # of this thread
    try:
        return _merge_tiles(base, dtype, pairs, first, target)
    finally:
        np.setbufsize(before)


def _merge_tiles(
    base: Array, dtype: str, pairs: Sequence[LoraPair], first: int, target: str
) -> Array:
    rows, columns = base.shape
    merged = np.empty((rows, columns), from_f64(np.empty(0), target).dtype)
    whole_rows = any(pair.magnitude is not None for pair in pairs)
    height = max(1, TILE // columns)
    width = columns if whole_rows else min(columns, TILE)
    buffers = np.empty((3, height, width))
    for top, left in _tiles(rows, columns, height, width):
        bottom, right = min(top + height, rows), min(left + width, columns)
        total, spare, product = buffers[:, : bottom - top, : right - left]
        original = to_f64(base[top:bottom, left:right], dtype)
        value = original
        for pair in pairs:
            b, a = pair.b[first + top : first + bottom], pair.a[:, left:right]
            _addition(b, a, pair.scaling, total, product)
            factors = None if pair.factors is None else pair.factors[left:right]
            if pair.magnitude is not None:
                np.add(original, total, out=product)
                magnitude = pair.magnitude[first + top : first + bottom]
                factors = length_factors(magnitude, row_norms(product))[:, None]
            np.add(value, total, out=total)
            if factors is not None:
                np.multiply(total, factors, out=total)
            value, total, spare = total, spare, total
        merged[top:bottom, left:right] = from_f64(value, target)
    return merged


def _addition(b: Array, a: Array, scaling: float, total: Array, product: Array) -> None:
    """Fill `total` with scaling * (b @ a), summed in the order of the rank."""
    np.multiply(b[:, 0, None], a[0], out=total)
    for k in range(1, a.shape[0]):
        np.multiply(b[:, k, None], a[k], out=product)
        np.add(total, product, out=total)
    np.multiply(total, scaling, out=total)


def _tiles(rows: int, columns: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield top, left


def row_norms(values: Array) -> Array:
    """Length of each row of `values` [rows, columns], which are overwritten. Returns [rows].

    The second half of what is left is added to the first until one column is left.
    """
    np.multiply(values, values, out=values)
    count = values.shape[1]
    while count > 1:
        half = count // 2
        kept = count - half
        np.add(values[:, :half], values[:, kept:count], out=values[:, :half])
        count = kept
    return np.sqrt(values[:, 0])


def add_column_squares(
    sums: Array, base: Array, dtype: str, pair: LoraPair, first: int, left: int, right: int
) -> None:
    """Add the squares of base and pair to `sums` [columns], for the columns `left` to `right`.

    `base` holds the rows `first`... of the weight. Rows are added in their order, so that the
    result does not depend on how a weight is cut into blocks.
    """
    before = np.setbufsize(UFUNC_BUFFER)
    try:
        _add_squares(sums[left:right], base[:, left:right], dtype, pair, first, left)
    finally:
        np.setbufsize(before)


def _add_squares(
    sums: Array, base: Array, dtype: str, pair: LoraPair, first: int, left: int
) -> None:
    rows, columns = base.shape
    height = max(1, TILE // columns)
    buffers = np.empty((2, height, columns))
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        total, product = buffers[:, : bottom - top]
        b = pair.b[first + top : first + bottom]
        _addition(b, pair.a[:, left : left + columns], pair.scaling, total, product)
        np.add(to_f64(base[top:bottom], dtype), total, out=total)
        np.multiply(total, total, out=total)
        for row in total:
            np.add(sums, row, out=sums)


def length_factors(magnitude: Array, norms: Array) -> Array:
    """What outputs of the length `norms` are multiplied by. Raises ZeroLengthError."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factors: Array = magnitude / norms
    if not np.isfinite(factors).all():
        raise ZeroLengthError
    return factors


class Workers:
    """Merges several blocks of rows at once; which thread does which block changes no bit."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.count)

    def merge(
        self, base: Array, dtype: str, pairs: Sequence[LoraPair], first: int, target: str
    ) -> Array:
        """As `merge_rows`, with the rows dealt out to the threads."""
        share = -(-base.shape[0] // self.count)
        parts = [
            self._pool.submit(
                merge_rows, base[top : top + share], dtype, pairs, first + top, target
            )
            for top in range(0, base.shape[0], share)
        ]
        done = [part.result() for part in parts]
        return done[0] if len(done) == 1 else np.concatenate(done)

    def add_column_squares(
        self, sums: Array, base: Array, dtype: str, pair: LoraPair, first: int
    ) -> None:
        """As `add_column_squares` for all columns, which are dealt out to the threads."""
        columns = base.shape[1]
        share = -(-columns // self.count)
        parts = [
            self._pool.submit(
                add_column_squares,
                *(sums, base, dtype, pair, first),
                *(left, min(left + share, columns)),
            )
            for left in range(0, columns, share)
        ]
        for part in parts:
            part.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
