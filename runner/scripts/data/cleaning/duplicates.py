"""Rows that are there already: the same, or nearly.

Rows are compared as columns of digests and of signatures, 256 bytes a row on disk, of which one
band (8) is put in order at a time. Only rows that meet another one in a band are read again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from mmap import mmap
from typing import IO, Any

import numpy as np

from runner.scripts.data.chunks.digests import Digests, index_kind, ordered
from runner.scripts.data.chunks.spool import Column
from runner.scripts.data.chunks.stored import StoredRows
from runner.scripts.data.cleaning.texts import Row, sides_of, texts_of
from runner.scripts.data.cleaning.words import words_of
from runner.scripts.data.preference import Judged
from runner.scripts.weights.floats import Array

_PERMUTATIONS, BANDS = 128, 32  # a pair of similarity 0.5 meets with 0.87, of 0.8 with 1 - 5e-8
_SEED = 1
_SHINGLE = 5  # characters
_LOOKED_AT = 200_000  # characters of a row
_WORDLESS = frozenset("01")  # of sides that are punctuation alone
_MOST_COMPARED = 64  # earlier rows that one is compared with
_TOLD_EVERY = 256  # rows that are compared: about a second where each meets many others
_KEPT = 1 << 18  # shingles of rows that may be asked for again: about 25 MB
_BLOCK = 1 << 14  # rows whose meetings are looked at at a time
_ODD = np.uint64(0x9E3779B97F4A7C15)
Found = tuple[int, int, float]  # index of a row, of the one before it, how like it is; 0 for equal


def exact(digests: Digests) -> Iterator[Found]:
    """Rows that are the same as one before."""
    found = ordered(digests)
    firsts = found.firsts()[found.codes()]
    for index in np.flatnonzero(firsts != np.arange(len(digests), dtype=firsts.dtype)):
        yield int(index), int(firsts[index]), 0.0


def near(
    rows: Sequence[Row],
    left: Array,
    bands: Iterable[Array | Column],
    threshold: float,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[Found]:
    """Rows, of those that are `left`, that are like one before, which was kept.

    Two rows are alike when the runs of five characters that both have are at least `threshold` of
    those that one of them has (Jaccard), case, punctuation and whitespace aside. MinHash finds the
    rows to compare; the comparison itself is exact. Rows for another use (a good and a bad answer)
    are not compared. `progress`: is told how many rows are done, of how many, every so many that
    are compared.
    """
    folder = rows.folder if isinstance(rows, StoredRows) else None
    with (
        tempfile.TemporaryFile(dir=folder) as meetings,
        tempfile.TemporaryFile(dir=folder) as lines_file,
        _Lines(lines_file) as kept,
    ):
        known = _Known(rows)
        met = _meetings(left, bands, Column(meetings, np.int64, folder), kept)
        for count, (index, lines) in enumerate(met, 1):
            if count % _TOLD_EVERY == 0:
                progress(index, len(left))
            there = {first for line in lines for first in kept.of(line)}
            earlier = sorted(there)[:_MOST_COMPARED]
            found = _alike(known, index, earlier, threshold) if earlier else None
            if found:
                yield found
                continue
            for line in lines:
                kept.append(line, index)


class _Lines:
    """Of each key that rows have in common, the first rows with it that were kept: in a file, of
    which as much is in memory as there is room. A line: how many there are, then they."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = 0
        self._held: mmap | None = None
        self._numbers: memoryview[int] | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held and self._numbers:
            self._numbers.release()
            self._held.close()

    def reserve(self, sizes: Array) -> Array:
        """Lines for keys of so many rows each: int64, the place of each line."""
        ends = self._size + np.cumsum(np.minimum(sizes, _MOST_COMPARED) + 1, dtype=np.int64)
        begins = np.concatenate([[self._size], ends])[:-1].astype(np.int64)
        self._size = int(ends[-1]) if len(ends) else self._size
        return begins

    def open(self) -> None:
        """All lines are reserved."""
        if self._size:
            os.posix_fallocate(self._file.fileno(), 0, 4 * self._size)  # or a full disk would kill
            self._held = mmap(self._file.fileno(), 4 * self._size)
            self._numbers = memoryview(self._held).cast("i")

    def of(self, line: int) -> list[int]:
        """Its rows."""
        assert self._numbers is not None
        return self._numbers[line + 1 : line + 1 + self._numbers[line]].tolist()

    def append(self, line: int, row: int) -> None:
        """Add a row, if it can be among the first that are asked for."""
        assert self._numbers is not None
        count = self._numbers[line]
        if count < _MOST_COMPARED:
            self._numbers[line + 1 + count] = row
            self._numbers[line] = count + 1


def _alike(known: _Known, index: int, earlier: Sequence[int], threshold: float) -> Found | None:
    shingles, use = known.of(index)
    for number in earlier:
        others, other_use = known.of(number)
        likeness = jaccard(shingles, others)
        if likeness >= threshold and other_use == use:
            return index, number, likeness
    return None


class _Known:
    """Shingles and use of rows; those asked for last are kept, as far as _KEPT goes. Rows of one
    pattern meet the same few again and again."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._found: dict[int, tuple[set[str], Any]] = {}
        self._size = 0

    def of(self, index: int) -> tuple[set[str], Any]:
        """Of one row."""
        found = self._found.pop(index, None)
        if found is None:
            row = self._rows[index]
            found = shingles_of(row), _use(row)
            self._size += len(found[0])
        self._found[index] = found  # the last one
        while self._size > _KEPT and len(self._found) > 1:
            oldest = next(iter(self._found))
            self._size -= len(self._found.pop(oldest)[0])
        return found


def _meetings(
    left: Array, bands: Iterable[Array | Column], meetings: Column, kept: _Lines
) -> Iterator[tuple[int, list[int]]]:
    """Each row that has a key with another one in common, in order, and the lines of the keys.

    `meetings`: where rows and lines wait, band by band.
    """
    starts, cuts = [], np.arange(0, len(left) + _BLOCK, _BLOCK)
    where = np.flatnonzero(left).astype(index_kind(len(left)))
    for band in bands:
        rows, lines = _met(band, where, kept)
        order = np.argsort(rows, kind="stable")
        starts.append(meetings.count // 2 + np.searchsorted(rows[order], cuts))
        meetings.extend(np.column_stack([rows[order], lines[order]]).reshape(-1))
    kept.open()
    for block in range(len(cuts) - 1):
        parts = [meetings.read(2 * own[block], 2 * own[block + 1]) for own in starts]
        found = np.concatenate([np.empty(0, np.int64), *parts]).reshape(-1, 2)
        found = found[np.argsort(found[:, 0], kind="stable")]
        begins = np.flatnonzero(np.append(True, found[1:, 0] != found[:-1, 0]))[: len(found)]
        for begin, end in zip(begins, np.append(begins[1:], len(found)), strict=False):
            yield int(found[begin, 0]), found[begin:end, 1].tolist()


def _met(band: Array | Column, where: Array, kept: _Lines) -> tuple[Array, Array]:
    """The rows of `where` that have their key with another one in common, and its line."""
    keys = Digests(band if isinstance(band, Column) else band.reshape(-1, 1), where, 1)
    found = ordered(keys)
    begins = found.new & ~np.append(found.new[1:], True)[: len(where)]
    several = begins | ~found.new
    if len(where) and not band[int(where[found.order[0]])]:  # rows without words are in no line
        wordless = int(np.append(found.new[1:], True).argmax()) + 1
        begins[:wordless] = several[:wordless] = False
    rows = where[found.order[several]]
    first = begins[several]
    sizes = np.diff(np.flatnonzero(np.append(first, True)))
    return rows, kept.reserve(sizes)[np.cumsum(first) - 1]


def signatures_of(rows: Sequence[Row]) -> Array:
    """uint64 [rows, BANDS]: in each band a key that rows which are alike probably share.

    0 for rows without words, which are like no other.
    """
    from rensa import RMinHash

    found = np.zeros((len(rows), BANDS), np.uint64)
    for number, row in enumerate(rows):
        shingles = shingles_of(row)
        if shingles <= _WORDLESS:
            continue
        signature = RMinHash(_PERMUTATIONS, _SEED)
        signature.update(sorted(shingles))
        digest = np.array(signature.digest(), np.uint64).reshape(BANDS, -1)
        for column in range(digest.shape[1]):
            found[number] = (found[number] ^ digest[:, column]) * _ODD + np.uint64(column + 1)
            found[number] ^= found[number] >> np.uint64(29)
    return found


def shingles_of(row: Row) -> set[str]:
    """The runs of five characters in the words of each side; a shorter text is one.

    Those of a rejected answer are others than those of a chosen one: a pair the other way round is
    no duplicate.
    """
    found: set[str] = set()
    for number, side in enumerate(sides_of(row)):
        text = " ".join(words_of(text_of(side)[:_LOOKED_AT]))
        last = max(len(text) - _SHINGLE, 0)
        found |= {f"{number}{text[start : start + _SHINGLE]}" for start in range(last + 1)}
    return found


def jaccard(one: set[str], other: set[str]) -> float:
    """How much of both is in each."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def text_of(row: Row) -> str:
    """All that it says."""
    return "\n".join(texts_of(row))


def _use(row: Row) -> object:
    """What rows must agree in to be duplicates."""
    return row.desirable if isinstance(row, Judged) else None
