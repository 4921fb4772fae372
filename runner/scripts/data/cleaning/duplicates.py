"""Rows that are there already: the same, or nearly.

Rows are compared as columns of digests and of signatures, 256 bytes a row of which one band (8) is
looked at at a time. Only rows that meet another one in a band are read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

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
_KEPT = 1 << 20  # shingles of rows that may be asked for again: about 100 MB
_ODD = np.uint64(0x9E3779B97F4A7C15)
Found = tuple[int, int, float]  # index of a row, of the one before it, how like it is; 0 for equal


def exact(digests: Array) -> Iterator[Found]:
    """Rows that are the same as one before."""
    _, first, codes = np.unique(digests, return_index=True, return_inverse=True)
    firsts = first[codes]
    for index in np.flatnonzero(firsts != np.arange(len(digests))):
        yield int(index), int(firsts[index]), 0.0


def near(
    rows: Sequence[Row], left: Array, bands: Iterable[Array], threshold: float
) -> Iterator[Found]:
    """Rows, of those that are `left`, that are like one before, which was kept.

    Two rows are alike when the runs of five characters that both have are at least `threshold` of
    those that one of them has (Jaccard), case, punctuation and whitespace aside. MinHash finds the
    rows to compare; the comparison itself is exact. Rows for another use (a good and a bad answer)
    are not compared.
    """
    kept: dict[int, list[int]] = defaultdict(list)  # meeting -> rows
    known = _Known(rows)
    for index, meetings in _meetings(left, bands):
        there = {first for meeting in meetings for first in kept.get(meeting, ())}
        found = _alike(known, index, sorted(there)[:_MOST_COMPARED], threshold) if there else None
        if found:
            yield found
            continue
        for meeting in meetings:
            kept[meeting].append(index)


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


def _meetings(left: Array, bands: Iterable[Array]) -> Iterator[tuple[int, list[int]]]:
    """Each row that has a key with another one in common, in order, and the numbers of the keys."""
    rows, keys, count = [np.empty(0, np.int32)], [np.empty(0, np.int64)], 0
    for band in bands:
        there = np.flatnonzero(left & (band != 0)).astype(np.int32)
        there = there[np.argsort(band[there], kind="stable")]
        own = band[there]
        if len(own) < 2:
            continue
        same = own[1:] == own[:-1]
        as_before, as_after = np.append(False, same), np.append(same, False)
        several = as_before | as_after
        begins = several & ~as_before
        rows.append(there[several])
        keys.append(count + np.cumsum(begins)[several])
        count += int(begins.sum())
    row, key = np.concatenate(rows), np.concatenate(keys)
    order = np.argsort(row, kind="stable")
    row, key = row[order], key[order]
    cuts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))[: len(row)]
    for begin, end in zip(cuts, [*cuts[1:], len(row)][: len(cuts)], strict=True):
        yield int(row[begin]), key[begin:end].tolist()


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
