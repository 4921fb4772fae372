"""A few rows of a large table in which still every pair of values occurs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Row = tuple[str, ...]  # one value of each dimension


def pairs(row: Row) -> set[tuple[int, str, int, str]]:
    """Every two values of a row, each with the number of its dimension."""
    return {(i, row[i], j, row[j]) for i, j in combinations(range(len(row)), 2)}


def covering(rows: Sequence[Row]) -> list[Row]:
    """Some of `rows`, in their order, in which every pair of values of all `rows` occurs.

    Greedy: the row with the most pairs that are still missing, the first among equals.

    >>> covering([("a", "x", "0"), ("a", "x", "1"), ("a", "y", "0"), ("a", "y", "1"),
    ...           ("b", "x", "0"), ("b", "x", "1"), ("b", "y", "0"), ("b", "y", "1")])
    [('a', 'x', '0'), ('a', 'y', '1'), ('b', 'x', '1'), ('b', 'y', '0')]
    """
    missing = set().union(*(pairs(row) for row in rows))
    taken = set()
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        taken.add(best)
    return [row for row in rows if row in taken]
