"""The arithmetic of the merge: the very bits, whatever the block, the thread, the instruction."""

from __future__ import annotations

import math
import random
from contextlib import closing
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.scripts.merging import lora_arithmetic
from runner.scripts.merging.lora_arithmetic import LoraPair, Workers, merge_rows
from runner.scripts.weights.floats import from_f64, to_f64


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
    merged = merge_rows(base, dtype, [pair], 0, dtype)
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


# --- DoRA


def lengths_by_hand(weight: np.ndarray, pair: LoraPair) -> np.ndarray:
    """Norms of the rows of weight and pair in exact fractions, rounded once."""
    found = []
    for row in range(weight.shape[0]):
        total = Fraction(0)
        for column in range(weight.shape[1]):
            a, b = pair.a[:, column].tolist(), pair.b[row].tolist()
            value = by_hand(float(weight[row, column]), a, b, pair.scaling)
            total += Fraction(value) ** 2
        found.append(float(total) ** 0.5)
    return np.array(found)


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 64])
def test_dora_gives_every_row_its_magnitude(columns: int) -> None:
    base, pair = random_case(columns, 6, columns, 2, "F32")
    magnitude = np.linspace(0.5, 2, 6)
    merged = merge_rows(base, "F32", [replace(pair, magnitude=magnitude)], 0, "F64")
    assert np.allclose(np.sqrt((merged**2).sum(axis=1)), magnitude, rtol=1e-14)
    plain = merge_rows(base, "F32", [pair], 0, "F64")
    lengths = lengths_by_hand(base, pair)
    assert np.allclose(merged, plain * (magnitude / lengths)[:, None], rtol=1e-14, atol=0)


def test_dora_along_columns_is_dora_along_rows_of_the_turned_weight() -> None:
    base, pair = random_case(4, 300, 37, 3, "F32")
    magnitude = np.linspace(0.5, 2, 37)
    sums = np.zeros(37)
    with closing(Workers(3)) as workers:
        workers.add_column_squares(sums, base, "F32", pair, 0)
    factors = lora_arithmetic.length_factors(magnitude, np.sqrt(sums))
    columns = merge_rows(base, "F32", [replace(pair, factors=factors)], 0, "F64")
    turned = LoraPair(
        *(np.ascontiguousarray(each.T) for each in (pair.b, pair.a)), pair.scaling, magnitude
    )
    rows = merge_rows(np.ascontiguousarray(base.T), "F32", [turned], 0, "F64")
    assert np.allclose(columns, rows.T, rtol=1e-13, atol=0)


def test_the_order_of_a_rows_squares_is_fixed() -> None:
    """Halves are added until one column is left: (1st + 4th) + (3rd), then + (2nd + 5th)."""
    values = np.array([[1.0, 2.0**30, 3.0, 2.0**-10, 5.0]])
    squares = [float(value) ** 2 for value in values[0]]
    expected = ((squares[0] + squares[3]) + squares[2]) + (squares[1] + squares[4])
    assert lora_arithmetic.row_norms(values.copy())[0] == math.sqrt(expected)


def test_the_norm_is_that_of_the_base_not_of_earlier_adapters() -> None:
    base, first = random_case(1, 4, 8, 2, "F32")
    _, second = random_case(2, 4, 8, 2, "F32")
    magnitude = np.ones(4)
    both = merge_rows(base, "F32", [first, replace(second, magnitude=magnitude)], 0, "F64")
    added = merge_rows(base, "F32", [first, second], 0, "F64")
    lengths = lengths_by_hand(base, second)
    assert np.allclose(both, added / lengths[:, None], rtol=1e-14, atol=0)


@pytest.mark.parametrize("magnitude", [np.ones(3), np.array([1, np.inf, 1])])
def test_a_row_without_a_length_is_an_error(magnitude: np.ndarray) -> None:
    base, pair = random_case(1, 3, 4, 1, "F32")
    if np.isfinite(magnitude).all():
        base[1] = 0
        pair.b[1] = 0
    with pytest.raises(lora_arithmetic.ZeroLengthError):
        merge_rows(base, "F32", [replace(pair, magnitude=magnitude)], 0, "F32")


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
    dora = replace(random_case(columns, rows, columns, rank, "BF16")[1], magnitude=np.ones(rows))
    pairs = [pair, dora, replace(pair, factors=np.linspace(0.5, 2, columns))]
    whole = merge_rows(base, "BF16", pairs, 0, "BF16")
    lengths = np.zeros(columns)
    lora_arithmetic.add_column_squares(lengths, base, "BF16", pair, 0, 0, columns)
    before = lora_arithmetic.TILE
    lora_arithmetic.TILE = tile
    parts, sums = [], np.zeros(columns)
    try:
        with closing(Workers(threads)) as workers:
            for first in range(0, rows, cut):
                block = base[first : first + cut]
                parts.append(workers.merge(block, "BF16", pairs, first, "BF16"))
                workers.add_column_squares(sums, block, "BF16", pair, first)
    finally:
        lora_arithmetic.TILE = before
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(sums, lengths)


def test_numpy_is_left_as_it_was_found() -> None:
    before = np.getbufsize()
    base, pair = random_case(0, 4, 4, 2, "F32")
    merge_rows(base, "F32", [pair], 0, "F32")
    assert np.getbufsize() == before
