"""Weights in 4 bits as bitsandbytes holds them, by numpy alone: which code each number has, and
what the layer computes with.

A weight is cut into blocks of 64 numbers, along its rows. Each number is divided by the largest of
its block and becomes the nearest of 16 values (QLoRA, Dettmers et al., 2023); the layer computes
with that value times the block's scale, rounded once. Everything here is one float32 operation
after the other, so that the bits are bitsandbytes' own, whatever the processor.

With double quantisation the scales themselves are held in 8 bits, around their mean. A mean has no
fixed order: torch's depends on vector width and threads, and a GPU's is another one. So scales are
never made here but read from what `constants` wrote on the machine that trained. It wrote a digest
of what each layer computes with too: bits that are not those of the training are found, and not
merged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import FLOATS, Array, cast, from_f32, to_f32
from runner.scripts.weights.safetensors_stream import (
    DamagedFileError,
    SafetensorsFile,
    TensorSpec,
    as_bytes,
    row_blocks,
)

BLOCK = 64  # numbers that share a scale
FORMAT = "constants.json"
SCALES = "constants.safetensors"
_SMALLEST = np.float32(1e-38)  # what stands for the scale of a block of zeros
# The values of the 16 codes, as float32; of NF4 they are the quantiles of the QLoRA paper.
_VALUES = {
    "nf4": [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    # A sign, two bits of exponent, one of fraction, by twelfths.
    "fp4": [each / 12 for each in (0, 0.0625, 8, 12, 4, 6, 2, 3)],
}
_VALUES["fp4"] += [-each for each in _VALUES["fp4"]]


class Values:
    """The 16 values of one kind of 4 bits, `nf4` or `fp4`, in order."""

    def __init__(self, kind: str) -> None:
        values = np.array(_VALUES[kind], np.float32) + np.float32(0)  # -0 is 0
        codes = np.argsort(values, kind="stable")
        self._sorted = values[codes]
        self._bounds = (self._sorted[:-1] + self._sorted[1:]) / np.float32(2)
        # FP4 has two codes of zero, and it is all one which of them a number has: both are 0 here.
        self._codes = np.where(self._sorted == 0, np.flatnonzero(values == 0)[0], codes).astype(
            "u1"
        )

    def nearest(self, numbers: Array) -> tuple[Array, Array]:
        """Code and value of each of `numbers`, float32 from -1 to 1."""
        found = np.searchsorted(self._bounds, numbers, side="left")
        return self._codes[found], self._sorted[found]


def largest(numbers: Array) -> Array:
    """The scale of each block of `numbers`, flat float32: the largest without its sign.

    The last block may be short.
    """
    if not numbers.size:
        return np.empty(0, np.float32)
    found: Array = np.maximum.reduceat(np.abs(numbers), range(0, numbers.size, BLOCK))
    if numbers.size % BLOCK:  # as bitsandbytes does it
        found[-1] = max(found[-1], _SMALLEST)
    return found


def scaled(numbers: Array) -> Array:
    """Flat float32 `numbers`, each by the scale of its block: from -1 to 1."""
    scales = np.maximum(largest(numbers), _SMALLEST)
    whole = numbers.size - numbers.size % BLOCK
    made = np.empty_like(numbers)
    factors = np.float32(1) / scales[: whole // BLOCK]
    np.multiply(
        numbers[:whole].reshape(-1, BLOCK), factors[:, None], out=made[:whole].reshape(-1, BLOCK)
    )
    if whole < numbers.size:  # a short block is divided, which rounds otherwise
        np.divide(numbers[whole:], scales[-1], out=made[whole:])
    return np.clip(made, np.float32(-1), np.float32(1), out=made)


def one_zero(values: Array) -> Array:
    """Stored float `values` of any dtype, -0 made 0 in place: FP4 has both, and they are one."""
    bits = values.view(f"<u{values.itemsize}")
    bits[bits == 1 << (8 * values.itemsize - 1)] = 0
    return values


@dataclass(frozen=True, slots=True)
class Held:
    """One weight in 4 bits. `transposed`: the file has it as [in, out], and it was held turned."""

    module: str
    values: str  # sha256 of what the layer computes with, row by row
    transposed: bool


Read = Callable[[int, int], Array]  # rows of the original weight as they are stored


class Constants:
    """What `constants` wrote below `folder`. Raises ScriptError E888."""

    def __init__(self, folder: Path) -> None:
        try:
            said = json.loads((folder / FORMAT).read_text(encoding="utf-8"))
            self._values = Values(said["quant_type"])
            self._dtype, self.dtype = str(said["dtype"]), str(said["compute_dtype"])
            self.held = {
                name: Held(name, str(each["values"]), bool(each["transposed"]))
                for name, each in said["modules"].items()
            }
            self._file = SafetensorsFile(folder / SCALES)
        except (
            OSError,
            DamagedFileError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise _damaged(f"{type(error).__name__}: {error}") from error
        if not {self._dtype, self.dtype} <= set(FLOATS):
            raise _damaged(f"numbers as {self._dtype}, computed in {self.dtype}")

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def by_tensor(self, names: Container[str]) -> dict[str, Held]:
        """Names of the base's tensors, of which `names` are all, that were held in 4 bits.

        GPT-2's own files lack the first part of the names that Transformers gives to its modules.
        Raises ScriptError E888.
        """
        found = {}
        for module, held in self.held.items():
            weight = f"{module}.weight"
            name = next((each for each in (weight, weight.partition(".")[2]) if each in names), "")
            if not name:
                raise _damaged(f"it has no {weight}")
            found[name] = held
        return found

    def _blocks(self, held: Held, spec: TensorSpec, limit: int) -> Iterator[tuple[int, int]]:
        """Ranges of rows of about `limit` bytes that begin where a block of 64 begins.

        A weight that is held turned comes whole.
        """
        if held.transposed:
            return iter([(0, spec.rows)])
        columns = math.prod(spec.shape[1:])
        return row_blocks(spec, limit, BLOCK // math.gcd(BLOCK, columns))

    def weights(
        self, held: Held, spec: TensorSpec, read: Read, limit: int
    ) -> Iterator[tuple[int, int, Array]]:
        """First row, last row and the numbers that the layer computes with, stored as `self.dtype`.

        Rows in order and to the end. Raises ScriptError E888 after the last ones, where the values
        are not those of the training.
        """
        seen = hashlib.sha256()
        scales = self._scales(held, spec)
        for first, last in self._blocks(held, spec, limit):
            rows = read(first, last)
            turned = np.ascontiguousarray(rows.T) if held.transposed else rows
            numbers = to_f32(cast(turned, spec.dtype, self._dtype), self._dtype).reshape(-1)
            _, values = self._values.nearest(scaled(numbers))
            begin = first * math.prod(spec.shape[1:]) // BLOCK
            each = scales[begin : begin - (-numbers.size // BLOCK)]
            values *= np.repeat(each, BLOCK)[: numbers.size]
            made = one_zero(from_f32(values, self.dtype)).reshape(turned.shape)
            seen.update(as_bytes(made))
            yield first, last, np.ascontiguousarray(made.T) if held.transposed else made
        if seen.hexdigest() != held.values:
            raise _other_bits(spec.name)

    def _scales(self, held: Held, spec: TensorSpec) -> Array:
        """Of all blocks of a weight: 1/16 of its numbers' size in float32. Raises E888."""
        wanted = -(-math.prod(spec.shape) // BLOCK)
        try:
            scales = self._file.read(held.module)
        except (KeyError, DamagedFileError) as error:
            raise _damaged(f"no scales of {held.module}") from error
        if scales.dtype != np.float32 or scales.shape != (wanted,):
            raise _damaged(f"{spec.name} has {wanted} blocks, and scales for {list(scales.shape)}")
        return scales


def _damaged(why: str) -> ScriptError:
    return ScriptError(
        f"the constants of the 4-bit weights do not fit the base: {why}",
        hint="write merge: {base: original}, and report this with the model's name",
        code="E888",
    )


def _other_bits(name: str) -> ScriptError:
    return ScriptError(
        f"{name} in 4 bits is not what the training held: what is merged would be another base",
        hint="write merge: {base: original}, and report this with the model's name",
        code="E888",
    )


def compute_dtype(name: str) -> str:
    """safetensors' name of a dtype of torch, such as `torch.bfloat16` or `bfloat16`."""
    names: dict[str, Any] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    return str(names[name.removeprefix("torch.")])
