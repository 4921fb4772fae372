"""Round arrays to narrower floating-point types, to nearest even, the same on every machine.

bfloat16 values are carried as their 16 bits in uint16 arrays: numpy has no bfloat16. A float64 is
rounded once, from its own bits: going through float32 with two roundings to nearest gives other
values for about 5 in a million elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# safetensors' dtype -> the numpy dtype that carries its bits in files and arrays
STORAGE = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
FLOATS = ("F64", "F32", "F16", "BF16")
# the recipe's and config.json's name -> safetensors' dtype
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

_BF16_NAN = np.uint16(0x7FC0)


def bf16_to_f32(bits: Array) -> Array:
    """Exact values of bfloat16 `bits` (uint16, any shape) as float32."""
    wide = bits.astype(np.uint32, order="C")
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def f32_to_bf16(values: Array) -> Array:
    """Round float32 to bfloat16 bits (uint16). Every NaN becomes 0x7FC0, as in PyTorch."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits  # cannot wrap but for NaNs, which are replaced below
    rounded >>= np.uint32(16)
    result = rounded.astype(np.uint16)
    nans = np.isnan(values)
    if nans.any():
        result[nans] = _BF16_NAN
    return result


def f64_to_f32(values: Array) -> Array:
    """Round float64 to float32: the one conversion every processor does alike."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def f64_to_bf16(values: Array) -> Array:
    """Round float64 to bfloat16 bits (uint16) in one rounding.

    Through float32 the result could only differ where the float32 lies exactly between two
    bfloat16 values; there the part lost on the way decides, not the tie rule.
    """
    single = np.ascontiguousarray(f64_to_f32(values))
    bits = single.view(np.uint32)
    low = bits.astype(np.uint16)  # the low half: what bfloat16 drops
    ties = np.flatnonzero(low == np.uint16(0x8000))
    if ties.size:
        exact = np.abs(np.ravel(values)[ties])
        via = np.abs(np.ravel(single)[ties].astype(np.float64))
        flat = bits.reshape(-1)
        flat[ties] += (exact > via).astype(np.uint32)
        flat[ties] -= (exact < via).astype(np.uint32)
    return f32_to_bf16(single)


def f64_to_f16(values: Array) -> Array:
    """Round float64 to float16 in one rounding, subnormals and overflow included.

    First to float32 by rounding to odd, which keeps every later rounding to at most 22 bits right
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    single = np.ascontiguousarray(f64_to_f32(values))
    via = single.astype(np.float64)
    bits = single.view(np.uint32)
    inexact = via != values
    inexact &= ~np.isnan(values)
    bits -= (inexact & (np.abs(via) > np.abs(values))).astype(np.uint32)
    bits |= inexact.astype(np.uint32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return single.astype(np.float16)


def _f32_to_f16(values: Array) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(np.float16)


def to_f32(values: Array, dtype: str) -> Array:
    """Exact float32 values of stored `values` of F32, F16 or BF16."""
    with np.errstate(invalid="ignore"):  # a signalling NaN stays a NaN
        return bf16_to_f32(values) if dtype == "BF16" else values.astype(np.float32, copy=False)


def to_f64(values: Array, dtype: str) -> Array:
    """Exact float64 values of stored `values` of any float dtype."""
    exact = bf16_to_f32(values) if dtype == "BF16" else values
    with np.errstate(invalid="ignore"):  # a signalling NaN stays a NaN
        return exact.astype(np.float64)


_FROM_F32: dict[str, Callable[[Array], Array]] = {
    "F32": lambda values: values,
    "F16": _f32_to_f16,
    "BF16": f32_to_bf16,
    "F64": lambda values: values.astype(np.float64),
}
_FROM_F64: dict[str, Callable[[Array], Array]] = {
    "F64": lambda values: values,
    "F32": f64_to_f32,
    "F16": f64_to_f16,
    "BF16": f64_to_bf16,
}


def from_f32(values: Array, dtype: str) -> Array:
    """Round float32 once to the stored form of `dtype`."""
    return _FROM_F32[dtype](values)


def from_f64(values: Array, dtype: str) -> Array:
    """Round float64 once to the stored form of `dtype`."""
    return _FROM_F64[dtype](values)


def cast(values: Array, source: str, target: str) -> Array:
    """Stored `values` of float dtype `source` as `target`, rounded at most once."""
    if source == target:
        return values
    if source == "F64":
        return from_f64(values, target)
    return from_f32(to_f32(values, source), target)
