"""Rows and numbers that wait in files until they are wanted, so that memory does not hold them.

The files lie in a folder of their own, and are gone when the stage ends, well or not.
"""

from __future__ import annotations

import os
import pickle
import shutil
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
        made = Spool(self.folder / name)
        self._stack.callback(made.close)
        return made

    def column(self, name: str, kind: Any) -> Column:
        """A new one, empty, of numbers of a `kind` of numpy."""
        made = Column(self.folder / name, kind)
        self._stack.callback(made.close)
        return made


class Spool:
    """Records in a file, one after another. Memory: eight bytes a record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w+b", BUFFER)
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, record: bytes) -> None:
        """Add one at the end."""
        self._file.write(record)
        self._ends.append(self._ends[-1] + len(record))

    def size(self, index: int) -> int:
        """Bytes of one."""
        return self._ends[index + 1] - self._ends[index]

    def part(self, indexes: Iterable[int]) -> Part:
        """What another process needs to read these records."""
        self._file.flush()
        ends = self._ends
        return Part(self.path, [(ends[index], ends[index + 1]) for index in indexes])

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
    """Numbers of one kind in a file; read by pieces, or mapped as a whole."""

    def __init__(self, path: Path, kind: Any) -> None:
        self.path = path
        self._kind = np.dtype(kind)
        self._file = path.open("w+b", BUFFER)
        self.count = 0

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
            assert count, f"{self.path} ends early"
            done += count
        return values

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
