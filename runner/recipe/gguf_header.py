"""The shapes in a GGUF file's header, read without the library: checking a recipe stays quick.

Format: docs/gguf.md of the ggml project, version 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runner.system.regular import open_regular

MAX_NAME = 1024  # bytes
MAX_TEXT = 4 << 20  # bytes of all texts that are kept; what goes beyond is skipped
MAX_VALUES = 100_000
MAX_TENSORS = 200_000
MAX_HEADER = 64 << 20  # bytes; a tokenizer with 256,000 tokens takes about ten million
# How struct reads a value, by its type; the sizes follow from it.
_LAYOUTS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_SIZES = {kind: struct.calcsize(f"<{layout}") for kind, layout in _LAYOUTS.items()}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Header:
    """`values`: key -> number or text; of a list, its length. `matrices`: as `read_matrices`.

    `parameters`: numbers in all tensors.
    """

    values: dict[str, Any]
    matrices: dict[str, int]
    parameters: int


class NotGgufError(ValueError):
    """The file is no GGUF file of a version that we read, or it is damaged."""


def read_matrices(path: Path) -> dict[str, int]:
    """Name -> length of a row of every tensor with two dimensions or more, in the file's order.

    Raises NotGgufError.
    """
    return read_header(path).matrices


def read_header(path: Path) -> Header:
    """Values and matrices of the file. Raises NotGgufError."""
    try:
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), _mapped(file), access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(data).header()
    except NotGgufError:
        raise
    except (struct.error, KeyError, ValueError, OverflowError, OSError) as error:
        raise NotGgufError(f"{path.name}: {error}") from error


def _mapped(file: IO[bytes]) -> int:
    """How much of the file can be a header; 0, which mmap refuses, when it is empty.

    Not all of it: a file of nothing but zeros takes no room on a disk, and reading it takes hours.
    """
    return min(os.fstat(file.fileno()).st_size, MAX_HEADER)


class _Reader:
    """Every step moves on by some bytes, so a damaged count ends with the mapping."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0
        self._kept = 0  # bytes of texts

    def header(self) -> Header:
        magic, version, tensors, values = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise NotGgufError("not a GGUF file of version 2 or 3")
        if tensors > MAX_TENSORS or values > MAX_VALUES:
            raise NotGgufError("more tensors or values than any model has")
        facts: dict[str, Any] = {}
        for _ in range(values):
            name = self._text()
            facts[name] = self._value(self._take("<I")[0])
        found: dict[str, int] = {}
        parameters = 0
        for _ in range(tensors):
            name = self._name()
            (dimensions,) = self._take("<I")
            shape = self._take(f"<{dimensions}Q") if dimensions <= 8 else ()
            self._take("<IQ")  # type, offset
            parameters += math.prod(shape)
            if len(shape) > 1:
                found[name] = shape[0]
        return Header(facts, found, parameters)

    def _take(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return found

    def _name(self) -> str:
        (length,) = self._take("<Q")
        if length > MAX_NAME:
            raise NotGgufError("a tensor's name is too long")
        self._at += length
        return self._data[self._at - length : self._at].decode()

    def _text(self) -> str:
        (length,) = self._take("<Q")
        self._at += length
        if self._at > len(self._data):
            raise NotGgufError("a text is cut off")
        self._kept += length
        if self._kept > MAX_TEXT:
            return ""
        return self._data[self._at - length : self._at].decode(errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._skip_array()
        return self._take(f"<{_LAYOUTS[kind]}")[0]

    def _skip_array(self) -> int:
        """Its length."""
        kind, count = self._take("<IQ")
        self._skip_items(kind, count)
        return int(count)

    def _skip_items(self, kind: int, count: int) -> None:
        if kind in _SIZES:
            self._at += _SIZES[kind] * count
            return
        if kind != _STRING:
            raise NotGgufError("an array of arrays")
        unpack, data, at = struct.Struct("<Q").unpack_from, self._data, self._at
        for _ in range(count):  # a tokenizer's: a hundred thousand of them
            at += 8 + unpack(data, at)[0]
        self._at = at
