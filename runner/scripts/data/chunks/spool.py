"""Rows and numbers that wait in files until they are wanted, so that memory does not hold them.

The files lie in a folder of their own, and are gone when the stage ends, well or not.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import IO, Any

import numpy as np

from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import Array

_FULL = (ENOSPC, EDQUOT, EFBIG)
BUFFER = 1 << 20
_COLUMN_BUFFER = 1 << 16
_PENDING = 4096  # places of records that are written at a time
_NEAR = 8  # of so many numbers one that is wanted: they are read at once


@contextmanager
def waiting_files(scratch: Path) -> Iterator[Files]:
    """Files in a new folder below `scratch`, without what an earlier try left there.

    Raises ScriptError E366 for a disk that is full, wherever within it is noticed.
    """
    folder = scratch / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        with ExitStack() as stack:
            yield Files(folder, stack)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ScriptError(
            f"the disk is full: {error.strerror}, while rows were prepared in {scratch}",
            hint="free some space, about five times the size of the data files, or give another "
            "place to the store; nothing was left behind",
            code="E366",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Files:
    """Files of one folder, which are closed together."""

    folder: Path
    _stack: ExitStack

    def spool(self, name: str) -> Spool:
        """A new one, empty."""
        made = Spool(self.folder / name, self.column(f"{name}.places", np.int64))
        self._stack.callback(made.close)
        return made

    def column(self, name: str, kind: Any) -> Column:
        """A new one, empty, of numbers of a `kind` of numpy."""
        file = (self.folder / name).open("w+b", _COLUMN_BUFFER)
        made = Column(file, kind, self.folder)
        self._stack.callback(made.close)
        return made


class Spool:
    """Records in a file, one after another. `places`: int64, where each begins and ends."""

    def __init__(self, path: Path, places: Column) -> None:
        self.path = path
        self._file = path.open("w+b", BUFFER)
        self._places = places
        self._pending = array("q")
        self._end = 0

    def __len__(self) -> int:
        return (self._places.count + len(self._pending)) // 2

    def append(self, record: bytes) -> None:
        """Add one at the end."""
        self._file.write(record)
        end = self._end + len(record)
        self._pending.extend((self._end, end))
        self._end = end
        if len(self._pending) >= 2 * _PENDING:
            self._write_places()

    def places(self, indexes: Array) -> Array:
        """Where in the file some records begin and end: int64 [n, 2]."""
        self._write_places()
        return self._places.gather(indexes, 2)

    def part(self, indexes: Sequence[int] | Array) -> Part:
        """What another process needs to read these records."""
        return self.part_at(self.places(np.asarray(indexes, np.int64)).tolist())

    def part_at(self, places: Iterable[Sequence[int]]) -> Part:
        """The same, of records whose places are known."""
        self._file.flush()
        return Part(self.path, [(begin, end) for begin, end in places])

    def _write_places(self) -> None:
        if self._pending:
            self._places.extend(np.frombuffer(self._pending, np.int64))
            self._pending = array("q")

    def close(self) -> None:
        """Release the file, also where what was written last finds no room."""
        _close(self._file)


@dataclass(frozen=True)
class Part:
    """Some records of a spool: ranges of bytes in its file."""

    path: Path
    ranges: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ranges)

    def rows(self) -> list[Any]:
        """The objects that were pickled into it."""
        return [pickle.loads(record) for record in self.records()]

    def records(self) -> list[bytes]:
        """As they lie in the file."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return [_bytes_at(descriptor, *each) for each in self.ranges]
        finally:
            os.close(descriptor)


class Column:
    """Numbers of one kind in a file, read by pieces. `folder`: where there is room for more."""

    def __init__(self, file: IO[bytes], kind: Any, folder: Path) -> None:
        self.folder = folder
        self._kind = np.dtype(kind)
        self._file = file
        self.count = 0

    @staticmethod
    def nameless(folder: Path, kind: Any) -> Column:
        """One whose file is gone when nobody has it any more."""
        file = tempfile.TemporaryFile(dir=folder, buffering=_COLUMN_BUFFER)  # noqa: SIM115
        made = Column(file, kind, folder)
        weakref.finalize(made, _close, file)
        return made

    def extend(self, values: Array) -> None:
        """Add some at the end."""
        self._file.write(np.ascontiguousarray(values, self._kind).data)
        self.count += len(values)

    def read(self, begin: int, end: int) -> Array:
        """The values of a range. Nothing is written while one reads."""
        self._file.flush()
        size = self._kind.itemsize
        values = np.empty(end - begin, self._kind)
        view = memoryview(values).cast("B") if len(values) else memoryview(b"")
        done = 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], begin * size + done)
            assert count, f"a column below {self.folder} ends early"
            done += count
        return values

    def __getitem__(self, index: int) -> Any:
        return self.read(index, index + 1)[0]

    def whole(self) -> Array:
        """All of them."""
        return self.read(0, self.count)

    def rows(self, begin: int, end: int, width: int) -> Array:
        """Groups of `width` numbers, those from `begin` to `end`: [n, width]."""
        return self.read(begin * width, end * width).reshape(-1, width)

    def gather(self, indexes: Array, width: int) -> Array:
        """Groups of `width` numbers [n, width], the group at each of the `indexes` [n]."""
        if not len(indexes):
            return np.empty((0, width), self._kind)
        low, high = int(indexes.min()), int(indexes.max()) + 1
        if high - low <= _NEAR * len(indexes):
            return self.rows(low, high, width)[indexes - low]
        found = np.empty((len(indexes), width), self._kind)
        for number, index in enumerate(indexes.tolist()):
            found[number] = self.rows(index, index + 1, width)
        return found

    def close(self) -> None:
        """As of a Spool."""
        _close(self._file)


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # nobody reads it any more
        file.close()


def _bytes_at(descriptor: int, begin: int, end: int) -> bytes:
    record = os.pread(descriptor, end - begin, begin)
    while len(record) < end - begin:
        more = os.pread(descriptor, end - begin - len(record), begin + len(record))
        assert more, "a spool ends early"
        record += more
    return record
