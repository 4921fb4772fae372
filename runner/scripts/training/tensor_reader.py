"""Read a model tensor by tensor, so that loading it takes hardly more memory than holding it.

Transformers maps every shard and keeps the maps until the last tensor is in its place. Over a
model in 4 bits that is the whole 16-bit model in the page cache beside it, and after the load too,
since norms and embeddings stay views of the maps. Here one tensor is read at a time, in blocks,
and the page cache of each block goes back to the kernel at once. What is done with a tensor (names,
dtype, 4 bits, ties) is left to Transformers: it is given these readers in place of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import modeling_utils

from runner.scripts.weights.model_folder import OWN_WAYS, read_json
from runner.scripts.weights.safetensors_stream import (
    BLOCK,
    INDEX,
    SINGLE,
    DamagedFileError,
    ModelFolder,
    SafetensorsFile,
    TensorSpec,
    row_blocks,
)

# Bytes that are read before freed memory goes back to the kernel. Quantising frees what is larger
# than what it keeps; the allocator holds such gaps, more than twice the model in all.
_TRIMMED = 64 << 20
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def why_not(folder: Path) -> str:
    """Why the model in `folder` cannot be read tensor by tensor; empty where it can be."""
    config = read_json(folder / "config.json")
    for name, reason in OWN_WAYS.items():
        if config.get(name):
            return reason
    if (folder / SINGLE).exists() and (folder / INDEX).exists():
        return "it has both one file of weights and an index of several"
    try:
        with ModelFolder(folder) as weights:
            other = {spec.dtype for spec in weights.tensors.values()} - STORED.keys()
    except (DamagedFileError, FileNotFoundError) as error:
        return str(error)
    return f"it stores numbers as {', '.join(sorted(other))}" if other else ""


def is_stored_as(folder: Path, dtype: torch.dtype) -> bool:
    """Does every number in the files have `dtype` already? The files must be readable."""
    with ModelFolder(folder) as weights:
        return {STORED[spec.dtype] for spec in weights.tensors.values()} == {dtype}


@contextmanager
def by_tensor() -> Iterator[None]:
    """While entered, `from_pretrained` opens files of weights as these readers."""
    heap = _Heap()
    opened: list[SafetensorsFile] = []

    def open_shard(path: str, **_: Any) -> _Shard:
        opened.append(SafetensorsFile(Path(path)))
        return _Shard(opened[-1], heap)

    try:
        with opening(open_shard):
            yield
    finally:
        for file in opened:
            file.close()
        heap.trim()


@contextmanager
def opening(open_shard: Callable[..., Any]) -> Iterator[None]:
    """While entered, Transformers opens files of weights by `open_shard(path, ...)`.

    It has no public way to be given readers, so what it opens files with is replaced.
    """
    before = modeling_utils.safe_open
    modeling_utils.safe_open = open_shard
    try:
        yield
    finally:
        modeling_utils.safe_open = before


class _Shard:
    """Of the library's open file, what Transformers uses of it while it loads."""

    def __init__(self, file: SafetensorsFile, heap: _Heap) -> None:
        self._file, self._heap = file, heap

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return [spec.name for spec in self._file.specs]

    def get_slice(self, name: str) -> _Reader:
        """A tensor that is yet to be read."""
        return _Reader(self._file, self._file.spec(name), self._heap)

    def __exit__(self, *_: object) -> None:
        """The files are closed when the model is loaded."""


class _Reader:
    """Stands for one tensor until Transformers asks for `reader[...]`. Safe in threads."""

    def __init__(self, file: SafetensorsFile, spec: TensorSpec, heap: _Heap) -> None:
        self._file, self._spec, self._heap = file, spec, heap

    def __getitem__(self, _: Any) -> torch.Tensor:
        """The tensor as it is stored, in memory of its own."""
        spec = self._spec
        self._heap.grown(spec.nbytes)
        made = torch.empty(spec.shape, dtype=STORED[spec.dtype])
        if not spec.nbytes:
            return made
        bytes_of = made.reshape(-1).view(torch.uint8).numpy()
        for first, last in row_blocks(spec, BLOCK):
            place = slice(first * spec.row_bytes, last * spec.row_bytes)
            values = self._file.read(spec.name, first, last)
            bytes_of[place] = values.reshape(-1).view("u1")
            self._file.forget(spec.name, first, last)
        return made


def read_rows(
    file: SafetensorsFile, spec: TensorSpec, first: int, into: torch.Tensor, held: torch.dtype
) -> None:
    """Fill `into` with as many rows of a tensor as it has, from row `first` on.

    Block by block, the page cache of each going back to the kernel. `held`: the dtype that they are
    rounded to before they become that of `into`.
    """
    rows = TensorSpec(spec.name, spec.dtype, tuple(into.shape))
    for begin, end in row_blocks(rows, BLOCK) if rows.nbytes else ():
        values = file.read(spec.name, first + begin, first + end)
        block = torch.from_numpy(values).view(STORED[spec.dtype])
        if held != into.dtype:  # else the copy rounds, without another block of memory
            block = block.to(held)
        (into[begin:end] if spec.shape else into).copy_(block)
        file.forget(spec.name, first + begin, first + end)


class _Heap:
    """Freed memory that the allocator still holds; glibc's alone gives it back when asked."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._grown = 0

    def grown(self, size: int) -> None:
        """`size` bytes are about to be taken."""
        self._grown += size
        if self._grown >= _TRIMMED:
            self.trim()

    def trim(self) -> None:
        """Give it back now."""
        self._grown = 0
        if self._trim is not None:
            self._trim(0)
