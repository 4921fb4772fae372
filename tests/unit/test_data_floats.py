"""Rounding to narrower floats: against exact rational arithmetic."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.scripts.weights import floats

# significand bits with the hidden one, smallest exponent of the last bit, largest exponent
FORMATS = {"BF16": (8, -133, 127), "F16": (11, -24, 15), "F32": (24, -149, 127)}


def exactly_rounded(value: float, dtype: str) -> float:
    """`value` rounded once to nearest even, computed with whole numbers."""
    if value == 0 or math.isinf(value):
        return value
    bits, smallest, largest = FORMATS[dtype]
    exponent = max(math.frexp(value)[1] - bits, smallest)
    steps = Fraction(value) / Fraction(2) ** exponent
    rounded = round(steps) * Fraction(2) ** exponent  # round() of a Fraction is to nearest even
    limit = (2 - Fraction(2) ** (1 - bits)) * Fraction(2) ** largest
    if abs(rounded) > limit:
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def value_of(stored: np.ndarray, dtype: str) -> float:
    wide = floats.to_f64(stored, dtype)
    return float(wide[0])


def near_midpoints(dtype: str) -> st.SearchStrategy[float]:
    """Values on, and one float64 step beside, the middle between two neighbours of `dtype`."""
    bits, smallest, largest = FORMATS[dtype]

    def middle(significand: int, exponent: int, step: int, sign: int) -> float:
        value = math.ldexp(2 * significand + 1, exponent - 1)
        for _ in range(abs(step)):
            value = math.nextafter(value, math.inf if step > 0 else 0.0)
        return sign * value

    return st.builds(
        middle,
        st.integers(0, 2**bits - 1),
        st.integers(smallest, largest - bits + 1),
        st.integers(-2, 2),
        st.sampled_from([1, -1]),
    )


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_float64_is_rounded_once(dtype: str) -> None:
    @given(st.one_of(st.floats(allow_nan=False), near_midpoints(dtype)))
    @example(0.0)
    @example(-0.0)
    @example(5e-324)
    @example(3.3895313892515355e38)  # the largest bfloat16
    @example(3.3961775292304957e38)  # from here on bfloat16 is infinite
    @example(65504.0)
    @example(65519.999)
    @example(65520.0)
    def holds(value: float) -> None:
        found = value_of(floats.from_f64(np.array([value]), dtype), dtype)
        expected = exactly_rounded(value, dtype)
        assert struct.pack("d", found) == struct.pack("d", expected)

    holds()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_float32_is_rounded_once(dtype: str) -> None:
    @given(st.floats(allow_nan=False, width=32))
    def holds(value: float) -> None:
        stored = floats.from_f32(np.array([value], np.float32), dtype)
        assert value_of(stored, dtype) == exactly_rounded(value, dtype)

    holds()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_two_roundings_would_give_another_value(dtype: str) -> None:
    """The control: a float64 just above a midpoint that float32 cannot tell from the midpoint."""
    bits = FORMATS[dtype][0]
    value = math.nextafter(1 + 2.0**-bits, 2)
    twice = floats.from_f32(np.array([value], np.float32), dtype)
    once = floats.from_f64(np.array([value]), dtype)
    assert value_of(twice, dtype) == 1.0
    assert value_of(once, dtype) == exactly_rounded(value, dtype) == 1 + 2.0 ** (1 - bits)


def test_nan_stays_nan() -> None:
    for dtype in ("BF16", "F16", "F32"):
        stored = floats.from_f64(np.array([math.nan, -math.nan, 1.0]), dtype)
        assert np.isnan(floats.to_f64(stored, dtype)).tolist() == [True, True, False]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=64))
@example([0x7F81, 0xFF81, 0x7FC0, 0x7F80])  # signalling, quiet, infinite
def test_bfloat16_survives_a_way_through_float64(bits: list[int]) -> None:
    stored = np.array(bits, np.uint16)
    numbers = ~np.isnan(floats.bf16_to_f32(stored))
    back = floats.from_f64(floats.to_f64(stored, "BF16"), "BF16")
    assert np.array_equal(back[numbers], stored[numbers])


@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
def test_casting_keeps_shape_and_values_that_both_can_hold(source: str, target: str) -> None:
    values = np.array([[0.0, 1.0, -2.5], [0.25, 96.0, -0.0]])
    stored = floats.cast(floats.from_f64(values, source), source, target)
    assert stored.dtype == np.dtype(floats.STORAGE[target])
    assert np.array_equal(floats.to_f64(stored, target), values)
