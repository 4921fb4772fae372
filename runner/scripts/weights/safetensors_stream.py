"""Read and write safetensors files in row blocks, so that no tensor need fit in memory.

The bytes equal those of the safetensors library for the same tensors: order by dtype (widest
first) and name, compact header, padded with spaces to 8 bytes. At most one metadata key is
written, since the library's own order of several keys is random.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from runner.scripts.weights.floats import STORAGE, Array

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
METADATA = {"format": "pt"}
BLOCK = 32 << 20  # bytes of a tensor that are worked on at a time
MAX_HEADER = 100_000_000  # bytes; the library's own limit
# the library's order of dtypes, widest first
_RANK = {name: rank for rank, name in enumerate(
    ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
)}  # fmt: skip


class DamagedFileError(ValueError):
    """A safetensors file or index that does not hold what its header says."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, safetensors dtype and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * np.dtype(STORAGE[self.dtype]).itemsize

    @property
    def rows(self) -> int:
        """Length of the first axis; a scalar has one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Size of one row in the file."""
        return self.nbytes // self.rows if self.rows else 0


def row_blocks(spec: TensorSpec, limit: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about `limit` bytes, at least `multiple` rows and a multiple of it."""
    rows = max(1, limit // max(1, spec.row_bytes))
    step = max(1, rows // multiple) * multiple
    for first in range(0, spec.rows, step):
        yield first, min(first + step, spec.rows)


def as_bytes(values: Array) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return memoryview(values.reshape(-1).view(np.uint8).data)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts `layers.2` before `layers.10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class SafetensorsWriter:
    """Writes one file; every tensor is filled by one or more `write` calls in order of its rows."""

    def __init__(
        self, path: Path, specs: Iterable[TensorSpec], metadata: dict[str, str] | None = None
    ) -> None:
        assert metadata is None or len(metadata) <= 1
        ordered = sorted(specs, key=lambda spec: (_RANK[spec.dtype], spec.name))
        header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        self._ends: dict[str, int] = {}
        self._cursors: dict[str, int] = {}
        offset = 0
        for spec in ordered:
            assert spec.name not in self._ends, spec.name
            end = offset + spec.nbytes
            header[spec.name] = {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": [offset, end],
            }
            self._cursors[spec.name], self._ends[spec.name] = offset, end
            offset = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, values: Array) -> None:
        """Append `values` (contiguous, in the stored dtype) to the tensor `name`."""
        begin = self._cursors[name]
        end = begin + values.nbytes
        assert end <= self._ends[name], f"{name} is longer than announced"
        self._file.seek(self._start + begin)
        self._file.write(as_bytes(np.ascontiguousarray(values)))
        self._cursors[name] = end

    def close(self) -> None:
        """Flush to disk. Every tensor must be complete."""
        open_ended = [name for name, end in self._ends.items() if self._cursors[name] != end]
        try:
            assert not open_ended, f"incomplete: {open_ended[:3]}"
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Release the file as it is, after a failure."""
        self._file.close()

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


@dataclass(frozen=True, slots=True)
class _Place:
    spec: TensorSpec
    begin: int  # absolute offset in the file


class SafetensorsFile:
    """Reads one file by row blocks through pread: nothing is mapped, so memory stays bounded.

    Raises DamagedFileError when the header is not valid or does not fit the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self.metadata, self._places = _read_header(self._file.fileno(), path)
        except BaseException:
            self._file.close()
            raise

    @property
    def specs(self) -> list[TensorSpec]:
        """Tensors in the order in which they lie in the file."""
        return [place.spec for place in self._places.values()]

    def spec(self, name: str) -> TensorSpec:
        """Raises KeyError."""
        return self._places[name].spec

    def read(self, name: str, first: int = 0, last: int | None = None) -> Array:
        """Rows `first` to `last` (exclusive) of a tensor in its stored dtype. Safe in threads."""
        place = self._places[name]
        spec = place.spec
        last = spec.rows if last is None else last
        shape = (last - first, *spec.shape[1:]) if spec.shape else ()
        values = np.empty(shape, dtype=STORAGE[spec.dtype])
        begin = place.begin + first * spec.row_bytes
        _read_exactly(self._file.fileno(), as_bytes(values), begin, self.path)
        return values

    def forget(self, name: str, first: int, last: int) -> None:
        """Give the page cache of rows `first` to `last` back to the kernel; they can be read again.

        A page that begins before the rows goes too, so that blocks one after the other leave none.
        """
        place = self._places[name]
        begin = place.begin + first * place.spec.row_bytes
        begin -= begin % mmap.PAGESIZE
        end = place.begin + last * place.spec.row_bytes
        os.posix_fadvise(self._file.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ModelFolder:
    """The weights of a Hugging Face model folder, in one file or in shards with an index.

    `tensors` maps every name to its spec, in natural order of names. Raises DamagedFileError.
    """

    def __init__(self, folder: Path) -> None:
        self.shards: list[SafetensorsFile] = []
        self._owner: dict[str, SafetensorsFile] = {}
        try:
            for name in shard_names(folder):
                self._add(SafetensorsFile(folder / name))
        except BaseException:
            self.close()
            raise
        self.tensors = {
            name: self._owner[name].spec(name) for name in sorted(self._owner, key=natural_order)
        }

    def _add(self, shard: SafetensorsFile) -> None:
        self.shards.append(shard)
        for spec in shard.specs:
            if spec.name in self._owner:
                raise DamagedFileError(f"{shard.path.name}: {spec.name} is in another shard too")
            self._owner[spec.name] = shard

    def read(self, name: str, first: int = 0, last: int | None = None) -> Array:
        """As SafetensorsFile.read, whichever shard holds the tensor."""
        return self._owner[name].read(name, first, last)

    def forget(self, name: str, first: int, last: int) -> None:
        """As SafetensorsFile.forget."""
        self._owner[name].forget(name, first, last)

    def close(self) -> None:
        """Release all shards."""
        for shard in self.shards:
            shard.close()

    def __enter__(self) -> ModelFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shard_names(folder: Path) -> list[str]:
    """File names of a model's weights, sorted. Raises DamagedFileError or FileNotFoundError."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / SINGLE).exists():
            raise FileNotFoundError(ENOENT, "no weights", str(folder / SINGLE))
        return [SINGLE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedFileError(f"{index.name} is not an index of shards") from error
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise DamagedFileError(f"{index.name} names {name!r}, which is no file beside it")
    return names


def open_shards(
    folder: Path, specs: Iterable[TensorSpec], max_bytes: int = 5_000_000_000
) -> ShardWriter:
    """Write `specs` below `folder` as Hugging Face does: one file, or shards and their index."""
    return ShardWriter(folder, plan_shards(list(specs), max_bytes))


def plan_shards(specs: list[TensorSpec], max_bytes: int) -> list[list[TensorSpec]]:
    """Fill shards in the given order; a tensor larger than the limit gets a shard of its own."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


class ShardWriter:
    """Several SafetensorsWriters behind one `write`. Writes the index when there are shards."""

    def __init__(self, folder: Path, plan: list[list[TensorSpec]]) -> None:
        count = len(plan)
        self._folder = folder
        self._size = sum(spec.nbytes for shard in plan for spec in shard)
        self._names: dict[str, str] = {}
        self._writers: dict[str, SafetensorsWriter] = {}
        for number, shard in enumerate(plan, 1):
            name = SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            self._names.update({spec.name: name for spec in shard})
            self._writers[name] = SafetensorsWriter(folder / name, shard, METADATA)

    def write(self, name: str, values: Array) -> None:
        """Append `values` to the tensor `name`."""
        self._writers[self._names[name]].write(name, values)

    def close(self) -> None:
        """Complete every shard and write the index."""
        for writer in self._writers.values():
            writer.close()
        if len(self._writers) > 1:
            index = {
                "metadata": {"total_size": self._size},
                "weight_map": dict(sorted(self._names.items())),
            }
            text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
            (self._folder / INDEX).write_text(text, encoding="utf-8")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        for writer in self._writers.values():
            writer.abandon()


def _read_header(descriptor: int, path: Path) -> tuple[dict[str, str], dict[str, _Place]]:
    size = os.fstat(descriptor).st_size
    prefix = bytearray(8)
    if size < 8:
        raise DamagedFileError(f"{path.name} is too short to be a safetensors file")
    _read_exactly(descriptor, memoryview(prefix), 0, path)
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER, size - 8):
        raise DamagedFileError(
            f"{path.name} is cut off inside its header, or is no safetensors file"
        )
    text = bytearray(length)
    _read_exactly(descriptor, memoryview(text), 8, path)
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
        metadata = header.pop("__metadata__", {})
        specs = [
            (TensorSpec(name, entry["dtype"], tuple(entry["shape"])), *entry["data_offsets"])
            for name, entry in header.items()
        ]
        specs.sort(key=lambda item: (item[1], item[2]))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedFileError(f"{path.name} has a damaged header: {error}") from error
    places: dict[str, _Place] = {}
    cursor = 0
    for spec, begin, end in specs:
        if spec.dtype not in STORAGE:
            raise DamagedFileError(
                f"{path.name}: {spec.name} has the unsupported dtype {spec.dtype}"
            )
        if any(not isinstance(axis, int) or axis < 0 for axis in spec.shape):
            raise DamagedFileError(f"{path.name}: {spec.name} has a damaged shape")
        if begin != cursor or end - begin != spec.nbytes:
            raise DamagedFileError(f"{path.name}: {spec.name} is not where the header says")
        places[spec.name] = _Place(spec, 8 + length + begin)
        cursor = end
    if 8 + length + cursor != size:
        raise DamagedFileError(
            f"{path.name} has {size:,} bytes, its header announces {8 + length + cursor:,}"
        )
    return metadata, places


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _read_exactly(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise DamagedFileError(f"{path.name} ends early")
        done += count
