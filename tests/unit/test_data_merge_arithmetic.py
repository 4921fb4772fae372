"""The arithmetic of the merge: the very bits, whatever the block, the thread, the instruction."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.scripts import lora_arithmetic
from runner.scripts.floats import from_f64, to_f64
from runner.scripts.lora_arithmetic import LoraPair, Workers, merge_rows


def fused(a: float, b: float, c: float) -> float:
    """a * b + c with one rounding, as a fused multiply-add does it."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def by_hand(base: float, a: list[float], b: list[float], scaling: float) -> float:
    """One element of the merged weight in Python's floats, before the last rounding."""
    total = b[0] * a[0]
    for left, right in zip(b[1:], a[1:], strict=True):
        total += left * right
    return total * scaling + base


def random_case(
    seed: int, rows: int, columns: int, rank: int, dtype: str
) -> tuple[np.ndarray, LoraPair]:
    generator = np.random.default_rng(seed)

    def single(*shape: int) -> np.ndarray:
        return (generator.standard_normal(shape) * 0.05).astype(np.float32).astype(np.float64)

    base = from_f64(generator.standard_normal((rows, columns)) * 0.02, dtype)
    return base, LoraPair(single(rank, columns), single(rows, rank), 16 / rank)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_every_element_is_the_sum_in_order_of_the_rank(dtype: str, rank: int) -> None:
    base, pair = random_case(rank, 5, 7, rank, dtype)
    expected = [
        by_hand(
            float(to_f64(base, dtype)[row, column]),
            pair.a[:, column].tolist(),
            pair.b[row].tolist(),
            pair.scaling,
        )
        for row in range(5)
        for column in range(7)
    ]
    merged = merge_rows(base, dtype, pair, 0, dtype)
    assert np.array_equal(merged.reshape(-1), from_f64(np.array(expected), dtype))


_SINGLE = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(_SINGLE, _SINGLE), min_size=2, max_size=16))
def test_fused_multiply_add_would_give_the_same_sum(pairs: list[tuple[float, float]]) -> None:
    """Why nothing depends on the processor: products of float32 numbers are exact in float64."""
    plain = pairs[0][0] * pairs[0][1]
    contracted = plain
    for left, right in pairs[1:]:
        plain += left * right
        contracted = fused(left, right, contracted)
    assert plain == contracted


def test_fusing_the_scaling_with_the_base_would_give_other_bits() -> None:
    """The control, and why these two are calls of their own: the sum has all 53 bits."""
    generator = random.Random(1)
    different = 0
    for _ in range(200):
        total, base = generator.uniform(-1, 1), generator.uniform(-1, 1)
        different += total * 1.7 + base != fused(total, 1.7, base)
    assert different > 20


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    rank=st.integers(1, 9),
    tile=st.sampled_from([1, 64, 1000, 32_768]),
    cut=st.integers(1, 40),
    threads=st.integers(1, 4),
)
def test_tiles_blocks_and_threads_change_no_bit(
    rows: int, columns: int, rank: int, tile: int, cut: int, threads: int
) -> None:
    base, pair = random_case(rows, rows, columns, rank, "BF16")
    whole = merge_rows(base, "BF16", pair, 0, "BF16")
    workers = Workers(threads)
    before = lora_arithmetic.TILE
    lora_arithmetic.TILE = tile
    try:
        parts = [
            workers.merge(base[first : first + cut], "BF16", pair, first, "BF16")
            for first in range(0, rows, cut)
        ]
    finally:
        lora_arithmetic.TILE = before
        workers.close()
    assert np.array_equal(np.concatenate(parts), whole)


def test_numpy_is_left_as_it_was_found() -> None:
    before = np.getbufsize()
    base, pair = random_case(0, 4, 4, 2, "F32")
    merge_rows(base, "F32", pair, 0, "F32")
    assert np.getbufsize() == before
