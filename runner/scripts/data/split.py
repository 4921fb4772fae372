"""Hold out rows by their content. Standard library only."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def held_out(digests: Sequence[str], fraction: float, seed: int) -> list[bool]:
    """For each row, is it held out? About `fraction` of the rows, at least one, never all.

    Distinct contents are ranked by a hash of seed and content, and the first ones are taken. So
    equal rows are on the same side and nothing leaks, the order of the rows does not matter, and a
    row that is added moves few others.
    """
    if fraction == 0 or not digests:
        return [False] * len(digests)
    copies = Counter(digests)
    ranked = sorted(copies, key=lambda digest: _rank(digest, seed))
    wanted = max(1, round(fraction * len(digests)))
    chosen: set[str] = set()
    taken = 0
    for digest in ranked[:-1]:  # the last one stays: there is always something to train on
        if taken >= wanted:
            break
        chosen.add(digest)
        taken += copies[digest]
    return [digest in chosen for digest in digests]


def _rank(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()
