"""Put several documents into packs of at most `capacity` tokens."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runner.scripts.weights.floats import Array

_BLOCK = 1 << 16  # documents whose lengths are looked at, at a time


@dataclass(frozen=True)
class Packs:
    """Documents by pack: the indexes of those of all packs in their order [documents], and where
    each pack ends in it, from 0 [packs + 1]."""

    order: Array
    ends: Array

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for begin, end in zip(self.ends[:-1], self.ends[1:], strict=True):
            yield self.order[begin:end].tolist()

    @property
    def sizes(self) -> Array:
        """How many documents each pack has."""
        return np.diff(self.ends)


def pack(lengths: Sequence[int] | Array, capacity: int) -> Packs:
    """Indexes of documents by pack: best fit, longest first.

    Each document goes into the fullest pack that still has room; among equals into the oldest.
    Time is O(n log n) plus a shift of at most `capacity` numbers a document. Within a pack the
    documents, and among each other the packs, stand in the order of their rows, so that the order
    of training says nothing about lengths. No document may be longer than `capacity`.

    Memory: about 20 bytes a document.
    """
    pack_of = _best_fit(np.asarray(lengths, np.int32), capacity)
    count = int(pack_of.max(initial=-1)) + 1
    first = np.full(count, len(pack_of), np.int32)
    np.minimum.at(first, pack_of, np.arange(len(pack_of), dtype=np.int32))
    rank = np.empty(count, np.int32)
    rank[np.argsort(first)] = np.arange(count, dtype=np.int32)
    pack_of = rank[pack_of]
    ends = np.append(0, np.cumsum(np.bincount(pack_of, minlength=count)))
    return Packs(np.argsort(pack_of, kind="stable").astype(np.int32), ends)


def _best_fit(lengths: Array, capacity: int) -> Array:
    """The number of each document's pack: int32 [n]."""
    chosen = np.empty(len(lengths), np.int32)
    order = np.argsort(-lengths, kind="stable").astype(np.int32)
    waiting = _Waiting(capacity)
    for begin in range(0, len(order), _BLOCK):
        block = order[begin : begin + _BLOCK]
        chosen[block] = [waiting.take(length) for length in lengths[block].tolist()]
    return chosen


class _Waiting:
    """Packs with room. Those with the same room wait in line: each names the one behind it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rooms: list[int] = []  # distinct free sizes, ascending
        self._ends: dict[int, list[int]] = {}  # room -> the first and the last in its line
        self._behind = array("i")  # of each pack that was opened

    def take(self, length: int) -> int:
        """The pack that a document of this length goes into."""
        assert length <= self._capacity, length
        place = bisect_left(self._rooms, length)
        if place == len(self._rooms):
            room, chosen = self._capacity, len(self._behind)
            self._behind.append(-1)
        else:
            room = self._rooms[place]
            chosen = self._first(room, place)
        self._put(chosen, room - length)
        return chosen

    def _first(self, room: int, place: int) -> int:
        line = self._ends[room]
        chosen = line[0]
        if chosen == line[1]:
            del self._ends[room], self._rooms[place]
        else:
            line[0] = self._behind[chosen]
        return chosen

    def _put(self, chosen: int, room: int) -> None:
        line = self._ends.get(room)
        if line is None:
            insort(self._rooms, room)
            self._ends[room] = [chosen, chosen]
        else:
            self._behind[line[1]] = chosen
            line[1] = chosen
