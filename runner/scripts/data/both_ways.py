"""Preferences that contradict one another: of the same two answers, now one, now the other.

Standard library only. What is kept are eight bytes a row, so that a large file needs no more.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from itertools import pairwise

from runner.scripts.data.preference import Compared, Pair


@dataclass(frozen=True, slots=True)
class Contradictions:
    """`count` pairs or answers that are judged both ways; the rows of the first, counted from 0."""

    count: int
    first: int
    second: int


class BothWays:
    """What rows of preferences say of the same answers."""

    def __init__(self) -> None:
        self._judged = array("Q")  # of each row: which answers, and in the last bit which way

    def add(self, row: Compared) -> None:
        """One row more."""
        self._judged.append(_judgement(row))

    def found(self) -> Contradictions | None:
        """None where nothing is said both ways."""
        in_order = sorted(self._judged)
        both = {one | 1 for one, next_one in pairwise(in_order) if one ^ next_one == 1}
        if not both:
            return None
        rows = enumerate(self._judged)
        first, judgement = next((row, each) for row, each in rows if each | 1 in both)
        second = next(row for row, each in rows if each == judgement ^ 1)
        return Contradictions(len(both), first, second)


def _judgement(row: Compared) -> int:
    """The same number for the same answers, but for the last bit, which is the verdict."""
    if isinstance(row, Pair):
        sides = [row.chosen.digest(), row.rejected.digest()]
        which, way = "".join(sorted(sides)), sides[0] < sides[1]
    else:
        which, way = row.answered.digest(), row.desirable
    number = int.from_bytes(hashlib.sha256(which.encode()).digest()[:8], "big")
    return number & ~1 | way
