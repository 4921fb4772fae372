"""How often the rows of each source are trained on, and in which order.

A source is an item of data.train: {name, and where given weight, repeat, limit}. Everything is
decided by hashes of seed and content: neither the order of rows in their files nor the order of
sources with equal settings changes the result. Only what moves rows needs numpy: what counts them
is asked before a run, where there may be none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from runner.scripts.data.dividing.kinship import Row
from runner.scripts.spec import ScriptError

if TYPE_CHECKING:
    from runner.scripts.weights.floats import Array

SETTINGS = ("weight", "repeat", "limit")
MAX_ROWS = 20_000_000  # of a mix; more is an oversight in its weights
Source = Mapping[str, Any]
R = TypeVar("R", bound=Row)


def is_mixed(sources: Sequence[Source]) -> bool:
    """Does any source say how much of it is taken?"""
    return any(setting in source for source in sources for setting in SETTINGS)


def limited(rows: Sequence[R], sources: Sequence[Source], seed: int) -> Sequence[R]:
    """Of each source with a `limit` that many rows, those that come first by hash; order kept."""
    import numpy as np

    from runner.scripts.data.chunks.digests import ordered
    from runner.scripts.data.chunks.stored import facts_in, taken

    facts = facts_in(rows)
    kept = np.zeros(len(rows), bool)
    for number, source in enumerate(sources):
        own = np.flatnonzero(facts.sources == number)
        if "limit" in source and len(own) > source["limit"]:
            ranks = ordered(facts.digests.take(own).hashed(f"{seed}:limit:"))
            own = own[ranks.order]
            if facts.has_groups or facts.strata:
                own = _copies_by_traits(rows, own, ranks.new)
            own = own[: source["limit"]]
        kept[own] = True
    return taken(rows, np.flatnonzero(kept))


def mixed(rows: Sequence[R], sources: Sequence[Source], seed: int) -> Sequence[R]:
    """The rows to train on: each as often as its source says, shuffled.

    Raises ScriptError E363 when a source that has a weight has no row, E364 when there are too
    many.
    """
    import numpy as np

    from runner.scripts.data.chunks.digests import index_kind, ordered
    from runner.scripts.data.chunks.stored import facts_in, taken

    facts = facts_in(rows)
    counts = np.bincount(facts.sources, minlength=len(sources)).tolist()
    times = times_of(counts, sources)
    wanted = {
        number: round(each * counts[number]) for number, each in enumerate(times) if counts[number]
    }
    if sum(wanted.values()) > MAX_ROWS:
        raise ScriptError(
            f"the mix would have {sum(wanted.values())} rows, more than {MAX_ROWS}",
            hint="lower repeat, or bring the weights in data.train closer together",
            code="E364",
        )
    kind = index_kind(len(rows))
    indexes, hashes = [np.empty(0, kind)], []
    for number, total in wanted.items():
        own = np.flatnonzero(facts.sources == number).astype(kind)
        passes, rest = divmod(total, len(own))
        for copy in range(passes + 1):
            if copy == passes:
                more = facts.digests.take(own).hashed(f"{seed}:more:")
                own = own[ordered(more).order[:rest]]
            indexes.append(own)
            hashes.append(facts.digests.take(own).hashed(f"{seed}:order:{copy}:"))
    return taken(rows, np.concatenate(indexes)[ordered(*hashes).order])


def shuffled(rows: Sequence[R], seed: int) -> Sequence[R]:
    """The rows in the order of a hash, whatever their order was."""
    from runner.scripts.data.chunks.digests import ordered
    from runner.scripts.data.chunks.stored import facts_in, taken

    return taken(rows, ordered(facts_in(rows).digests.hashed(f"{seed}:order:0:")).order)


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
            raise no_row_of(source)
    weights = [_exact(source["weight"]) for source in sources]
    whole = max(count / weight for count, weight in zip(counts, weights, strict=True))
    return [weight * whole / count for count, weight in zip(counts, weights, strict=True)]


def no_row_of(source: Source, dropped: str = "") -> ScriptError:
    """What to say of a source that has a weight. `dropped`: the steps of cleaning that left rows of
    it out, and how many."""
    less = "data.clean drop less of it" if dropped else "hold out less of it"
    return ScriptError(
        f"{source['name']} has a weight, and no row of it is left to train on"
        + (f"; data.clean dropped: {dropped}" if dropped else ""),
        hint="leave the file out of data.train, or " + ("let " * bool(dropped)) + less,
        code="E363",
    )


def _exact(number: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(repr(number))


def _copies_by_traits(rows: Sequence[Row], indexes: Array, new: Array) -> Array:
    """The `indexes` of rows in order, of which each is `new` or a copy of the one before it, with
    copies in the order of what else decides their side."""
    import numpy as np

    def traits(index: int) -> tuple[str, str]:
        own = rows[index].traits
        return own.group or "", own.stratum or ""

    found = indexes.copy()
    begins = np.flatnonzero(np.append(new, True))
    for number in np.flatnonzero(np.diff(begins) > 1).tolist():
        copies = slice(begins[number], begins[number + 1])
        found[copies] = sorted(indexes[copies].tolist(), key=traits)
    return found
