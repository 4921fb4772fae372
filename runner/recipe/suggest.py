"""Did you mean: the nearest known word by edit distance."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 64  # characters of a word that is compared: a thousand names of files take long enough


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is most likely a slip of; None when no word is near.

    Near is one slip in three letters: left out, put in, changed, or two neighbours swapped. Case
    counts less than a letter, and so does an ending that was left out. The first of equally near
    words wins.
    """
    best: tuple[float, str] | None = None
    for candidate in known:
        limit = max(1, len(candidate) // 3)
        if abs(len(word) - len(candidate)) > limit or len(candidate) > LONGEST:
            continue  # also keeps a stranger's long words cheap
        distance: float = _distance(word.casefold(), candidate.casefold(), limit)
        distance += 0.5 if distance == 0 and word != candidate else 0
        if distance >= 1 and candidate.casefold().startswith(word.casefold()):
            distance = 0.75
        if distance <= limit and (best is None or distance < best[0]):
            best = (distance, candidate)
    return best[1] if best else None


def _distance(a: str, b: str, limit: int) -> int:
    """Optimal string alignment distance; more than `limit` is not counted to the end."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row, above = row, [i], before
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], above[j - 2] + 1)
        if min(row) > limit and min(before) > limit:
            return min(row)
    return row[-1]
