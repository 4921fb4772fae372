"""How often the rows of each source are trained on, and in which order. Standard library only.

A source is an item of data.train: {name, and where given weight, repeat, limit}. Everything is
decided by hashes of seed and content: neither the order of rows in their files nor the order of
sources with equal settings changes the result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from runner.scripts.data.kinship import Row
from runner.scripts.spec import ScriptError

SETTINGS = ("weight", "repeat", "limit")
MAX_ROWS = 20_000_000  # of a mix; more is an oversight in its weights
Source = Mapping[str, Any]
R = TypeVar("R", bound=Row)


def is_mixed(sources: Sequence[Source]) -> bool:
    """Does any source say how much of it is taken?"""
    return any(setting in source for source in sources for setting in SETTINGS)


def limited(rows: Sequence[R], sources: Sequence[Source], seed: int) -> list[R]:
    """Of each source with a `limit` that many rows, those that come first by hash; order kept."""
    kept: set[int] = set()
    for number, source in enumerate(sources):
        indexes = [index for index, row in enumerate(rows) if row.traits.source == number]
        if "limit" in source and len(indexes) > source["limit"]:
            indexes.sort(key=lambda index: _limit_rank(rows[index], seed))
            indexes = indexes[: source["limit"]]
        kept.update(indexes)
    return [row for index, row in enumerate(rows) if index in kept]


def mixed(rows: Sequence[R], sources: Sequence[Source], seed: int) -> list[R]:
    """The rows to train on: each as often as its source says, shuffled.

    Raises ScriptError E363 when a source that has a weight has no row, E364 when there are too
    many.
    """
    counts = Counter(row.traits.source for row in rows)
    times = times_of([counts[number] for number in range(len(sources))], sources)
    wanted = {
        number: round(each * counts[number]) for number, each in enumerate(times) if counts[number]
    }
    if sum(wanted.values()) > MAX_ROWS:
        raise ScriptError(
            f"the mix would have {sum(wanted.values())} rows, more than {MAX_ROWS}",
            hint="lower repeat, or bring the weights in data.train closer together",
            code="E364",
        )
    result: list[tuple[str, R]] = []
    for number, total in wanted.items():
        own = [(row.digest(), row) for row in rows if row.traits.source == number]
        passes, rest = divmod(total, len(own))
        ranked = sorted(own, key=lambda item: _hash(f"{seed}:more:{item[0]}")) if rest else []
        for copy in range(passes + 1):
            for digest, row in own if copy < passes else ranked[:rest]:
                result.append((_hash(f"{seed}:order:{copy}:{digest}"), row))
    return [row for _, row in sorted(result, key=lambda item: item[0])]


def shuffled(rows: Sequence[R], seed: int) -> list[R]:
    """The rows in the order of a hash, whatever their order was."""
    return sorted(rows, key=lambda row: _hash(f"{seed}:order:0:{row.digest()}"))


def rows_about(counts: Sequence[int], sources: Sequence[Source], fraction: float) -> float:
    """How many rows are trained on, about, where the files have `counts` rows."""
    taken = [
        min(count, source.get("limit", count))
        for count, source in zip(counts, sources, strict=True)
    ]
    if not all(taken):
        return sum(taken) * (1 - fraction)
    times = times_of(taken, sources)
    return float(sum(n * each for n, each in zip(taken, times, strict=True))) * (1 - fraction)


def times_of(counts: Sequence[int], sources: Sequence[Source]) -> list[Fraction]:
    """How often the rows of each source are taken on average.

    `weight`s are the shares of the sources in the mix: the one that is shortest of rows for its
    weight the least is taken once, all others more often, so that no row is left out. Raises
    ScriptError E363.
    """
    if not all("weight" in source for source in sources):
        return [_exact(source.get("repeat", 1)) for source in sources]
    for count, source in zip(counts, sources, strict=True):
        if not count:
            raise ScriptError(
                f"{source['name']} has a weight, and no row of it is left to train on",
                hint="leave the file out of data.train, or hold out less of it",
                code="E363",
            )
    weights = [_exact(source["weight"]) for source in sources]
    whole = max(count / weight for count, weight in zip(counts, weights, strict=True))
    return [weight * whole / count for count, weight in zip(counts, weights, strict=True)]


def _exact(number: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(repr(number))


def _limit_rank(row: Row, seed: int) -> tuple[str, str, str]:
    """Copies are told apart by what else decides their side."""
    traits = row.traits
    return _hash(f"{seed}:limit:{row.digest()}"), traits.group or "", traits.stratum or ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
