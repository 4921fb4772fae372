"""The shapes in a GGUF file's header, read without the library: checking a recipe stays quick.

Format: docs/gguf.md of the ggml project, version 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

MAX_NAME = 1024  # bytes
MAX_TENSORS = 1_000_000
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a value, bytes
_STRING, _ARRAY = 8, 9


class NotGgufError(ValueError):
    """The file is no GGUF file of a version that we read, or it is damaged."""


def read_matrices(path: Path) -> dict[str, int]:
    """Name -> length of a row of every tensor with two dimensions or more, in the file's order."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(data).matrices()
    except NotGgufError:
        raise
    except (struct.error, KeyError, ValueError, OverflowError, OSError) as error:
        raise NotGgufError(f"{path.name}: {error}") from error


class _Reader:
    """Every step moves on by some bytes, so a damaged count ends with the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def matrices(self) -> dict[str, int]:
        magic, version, tensors, values = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3) or tensors > MAX_TENSORS:
            raise NotGgufError("not a GGUF file of version 2 or 3")
        for _ in range(values):
            self._skip(_STRING)
            self._skip(self._take("<I")[0])
        found: dict[str, int] = {}
        for _ in range(tensors):
            name = self._name()
            (dimensions,) = self._take("<I")
            shape = self._take(f"<{dimensions}Q") if dimensions <= 8 else ()
            self._take("<IQ")  # type, offset
            if len(shape) > 1:
                found[name] = shape[0]
        return found

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

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            (length,) = self._take("<Q")
            self._at += length
        elif kind == _ARRAY:
            self._skip_array()
        else:
            self._at += _SIZES[kind]

    def _skip_array(self) -> None:
        kind, count = self._take("<IQ")
        if kind in _SIZES:
            self._at += _SIZES[kind] * count
            return
        if kind != _STRING:
            raise NotGgufError("an array of arrays")
        unpack, data, at = struct.Struct("<Q").unpack_from, self._data, self._at
        for _ in range(count):  # a tokenizer's: a hundred thousand of them
            at += 8 + unpack(data, at)[0]
        self._at = at
