"""Turn a GGUF file's weights and metadata into a Hugging Face model, one block of rows at a time.

To add an architecture is one line in architectures. Nothing is guessed: a tensor or a
rope scaling that is not understood is an error, never left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFValueType
from gguf.quants import dequantize

from runner.scripts.from_gguf.architectures import ARCHITECTURES
from runner.scripts.from_gguf.architectures.base import Architecture
from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import DTYPES, Array, from_f32
from runner.scripts.weights.safetensors_stream import BLOCK, TensorSpec, natural_order, row_blocks

_REQUIRED = object()


class GgufFile:
    """Metadata and tensors of one GGUF file. Raises ScriptError E312 for a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
            raise ScriptError(
                f"{path.name} is not a readable GGUF file: {error}",
                hint="download it again; its size and sha256 should match the publisher's",
                code="E312",
            ) from error
        self.tensors = {str(tensor.name): tensor for tensor in self._reader.tensors}
        self._file = path.open("rb")

    def value(self, key: str, default: Any = _REQUIRED) -> Any:
        """A metadata value as plain Python data; float32 numbers as their shortest decimal."""
        found = self._reader.fields.get(key)
        if found is None:
            if default is _REQUIRED:
                raise ScriptError(
                    f"{self.path.name} lacks the metadata {key}",
                    hint="convert the model again with a current llama.cpp",
                    code="E312",
                )
            return default
        value = found.contents()
        if found.types == [GGUFValueType.FLOAT32]:
            return shortest(value)
        return value

    def rows(self, name: str, first: int, last: int) -> Array:
        """Rows of a tensor, dequantised: float32 [last - first, columns]; 1-d is one row."""
        tensor = self.tensors[name]
        block, size = GGML_QUANT_SIZES[tensor.tensor_type]
        row_bytes = int(tensor.shape[0]) // block * size
        self._file.seek(int(tensor.data_offset) + first * row_bytes)
        raw = self._file.read((last - first) * row_bytes)
        if len(raw) != (last - first) * row_bytes:
            raise ScriptError(f"{self.path.name} ends inside {name}", code="E312")
        data = np.frombuffer(raw, np.uint8).reshape(last - first, row_bytes)
        try:
            return dequantize(data, tensor.tensor_type)
        except NotImplementedError as error:  # gguf-py's word for a type it cannot read
            raise ScriptError(
                f"{name} is stored as {tensor.tensor_type.name}, which cannot be dequantised",
                hint="start from another quantisation of the model, for example Q8_0 or F16",
                code="E314",
            ) from error

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shortest(value: float) -> float:
    """The float64 that a person would write for this float32: 9.99999974e-06 -> 1e-05."""
    return float(str(np.float32(value)))


def architecture_of(source: GgufFile) -> Architecture:
    """Raises ScriptError E313 for an architecture that is not in the registry."""
    name = source.value("general.architecture")
    if name not in ARCHITECTURES:
        raise ScriptError(
            f"the architecture {name!r} of {source.path.name} cannot be turned into safetensors",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}; or start from a safetensors model",
            code="E313",
        )
    return ARCHITECTURES[name]


@dataclass(frozen=True)
class Plan:
    """One tensor to write: where it comes from, and how many heads its rows are permuted by."""

    spec: TensorSpec
    source: str
    heads: int  # 0: rows are in order
    shift: float  # what the converter added to every value


def plan_tensors(source: GgufFile, architecture: Architecture, dtype: str) -> list[Plan]:
    """Every tensor of the file under its Hugging Face name, in natural order of names."""
    plans = []
    for name, tensor in source.tensors.items():
        if name in architecture.ignored:
            continue
        generic = re.sub(r"^blk\.(\d+)\.", "blk.{n}.", name)
        target = architecture.names.get(generic)
        if target is None:
            raise ScriptError(
                f"{source.path.name} holds the tensor {name}, which is not understood",
                hint="start from the model's safetensors instead",
                code="E314",
            )
        number = re.match(r"blk\.(\d+)\.", name)
        shape = tuple(int(axis) for axis in reversed(tensor.shape))
        heads = architecture.heads.get(generic)
        plans.append(
            Plan(
                TensorSpec(target.format(n=number[1] if number else ""), DTYPES[dtype], shape),
                name,
                int(source.value(heads)) if heads else 0,
                architecture.norm_shift if name.endswith("norm.weight") else 0.0,
            )
        )
    return sorted(plans, key=lambda plan: natural_order(plan.spec.name))


def blocks_of(source: GgufFile, plan: Plan) -> Iterator[Array]:
    """The tensor's rows in order, in their stored dtype, about BLOCK bytes of float32 at a time."""
    spec = plan.spec
    if len(spec.shape) == 1 and not plan.heads:
        row = source.rows(plan.source, 0, 1).reshape(-1)
        yield from_f32(row - np.float32(plan.shift) if plan.shift else row, spec.dtype)
        return
    if len(spec.shape) == 1:  # a permuted bias
        bias = source.rows(plan.source, 0, 1).reshape(-1, 1)
        yield from_f32(_unpermute(bias, bias.shape[0] // plan.heads).reshape(-1), spec.dtype)
        return
    wide = TensorSpec(spec.name, "F32", spec.shape)
    head = spec.rows // plan.heads if plan.heads else 1
    for first, last in row_blocks(wide, BLOCK, head):
        rows = source.rows(plan.source, first, last)
        if plan.heads:
            rows = _unpermute(rows, head)
        yield from_f32(rows, spec.dtype)


def _unpermute(rows: Array, head: int) -> Array:
    """Undo llama.cpp's rope order: within each head, pairs (i, i + head/2) lie side by side."""
    columns = rows.shape[1]
    pairs = rows.reshape(-1, head // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1, columns)
