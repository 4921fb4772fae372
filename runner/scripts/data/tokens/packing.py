"""Put several documents into packs of at most `capacity` tokens. Standard library only."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indexes of documents by pack: best fit, longest first.

    Each document goes into the fullest pack that still has room; among equals into the oldest.
    Time is O(n log n) plus a shift of at most `capacity` numbers a document. Within a pack the
    documents, and among each other the packs, stand in the order of their rows, so that the order
    of training says nothing about lengths. No document may be longer than `capacity`.
    """
    rooms: list[int] = []  # distinct free sizes, ascending
    open_packs: dict[int, deque[list[int]]] = {}
    packs: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        assert length <= capacity, (index, length)
        place = bisect_left(rooms, length)
        if place == len(rooms):
            chosen: list[int] = []
            packs.append(chosen)
            room = capacity
        else:
            room = rooms[place]
            waiting = open_packs[room]
            chosen = waiting.popleft()
            if not waiting:
                del open_packs[room]
                del rooms[place]
        chosen.append(index)
        left = room - length
        if left not in open_packs:
            insort(rooms, left)
            open_packs[left] = deque()
        open_packs[left].append(chosen)
    return sorted(sorted(members) for members in packs)
