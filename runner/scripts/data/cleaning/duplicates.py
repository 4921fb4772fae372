"""Rows that are there already: the same, or nearly."""

from __future__ import annotations

from collections.abc import Callable

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import Row, sides_of, texts_of
from runner.scripts.data.cleaning.words import words_of
from runner.scripts.data.preference import Judged
from runner.scripts.data.rows import Place

_PERMUTATIONS, _BANDS = 128, 32  # a pair of similarity 0.5 meets with 0.87, of 0.8 with 1 - 5e-8
_SEED = 1
_SHINGLE = 5  # characters
_LOOKED_AT = 200_000  # characters of a row
_WORDLESS = frozenset("01")  # of sides that are punctuation alone
_MOST_COMPARED = 64  # earlier rows that one is compared with


class Exact:
    """Drops rows that are the same as one before."""

    def __init__(self) -> None:
        self._first: dict[str, Place] = {}

    def __call__(self, row: Row) -> Row | Drop:
        digest = row.digest()
        if digest in self._first:
            return Drop(f"the same as {self._first[digest]}", _text(row))
        self._first[digest] = row.place
        return row


class Near:
    """Drops rows that are like one before, which was kept.

    Two rows are alike when the runs of five characters that both have are at least `threshold` of
    those that one of them has (Jaccard), case, punctuation and whitespace aside. MinHash finds the
    rows to compare; the comparison itself is exact. Rows for another use (a good and a bad answer)
    are not compared.
    """

    def __init__(self, threshold: float) -> None:
        from rensa import RMinHash, RMinHashLSH

        self._threshold = threshold
        self._signature: Callable[[], RMinHash] = lambda: RMinHash(_PERMUTATIONS, _SEED)
        self._index = RMinHashLSH(threshold, _PERMUTATIONS, _BANDS)
        self._kept: list[Row] = []

    def __call__(self, row: Row) -> Row | Drop:
        shingles = shingles_of(row)
        if shingles <= _WORDLESS:
            return row
        signature = self._signature()
        signature.update(sorted(shingles))
        for number in sorted(self._index.query(signature))[:_MOST_COMPARED]:
            first = self._kept[number]
            likeness = jaccard(shingles, shingles_of(first))
            if likeness >= self._threshold and _use(first) == _use(row):
                return Drop(f"{likeness:.2f} like {first.place}", _text(row))
        self._index.insert(len(self._kept), signature)
        self._kept.append(row)
        return row


def shingles_of(row: Row) -> set[str]:
    """The runs of five characters in the words of each side; a shorter text is one.

    Those of a rejected answer are others than those of a chosen one: a pair the other way round is
    no duplicate.
    """
    found: set[str] = set()
    for number, side in enumerate(sides_of(row)):
        text = " ".join(words_of(_text(side)[:_LOOKED_AT]))
        last = max(len(text) - _SHINGLE, 0)
        found |= {f"{number}{text[start : start + _SHINGLE]}" for start in range(last + 1)}
    return found


def jaccard(one: set[str], other: set[str]) -> float:
    """How much of both is in each."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _text(row: Row) -> str:
    return "\n".join(texts_of(row))


def _use(row: Row) -> object:
    """What rows must agree in to be duplicates."""
    return row.desirable if isinstance(row, Judged) else None
