"""Hold out rows by their content. numpy alone: a few numbers a row, whatever a row holds.

Names of rows are texts, in memory, or Digests, on disk.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from runner.scripts.data.chunks.digests import Digests, ordered
from runner.scripts.data.dividing.facts import Strata, owner
from runner.scripts.weights.floats import Array

Names = Array | Digests  # S [n], or digests
_BLOCK = 1 << 16  # rows that are looked at one by one, at a time


def held_out(digests: Sequence[str] | Names, fraction: float, seed: int) -> list[bool]:
    """For each row, is it held out? About `fraction` of the rows, at least one, never all.

    Distinct contents are ranked by a hash of seed and content, and the first ones are taken. So
    equal rows are on the same side and nothing leaks, the order of the rows does not matter, and a
    row that is added moves few others.
    """
    return list(sides_of_share(_names(digests), fraction, seed).tolist())


def sides_of_share(digests: Names, fraction: float, seed: int) -> Array:
    """As `held_out`: bool [n]."""
    names, codes, copies = _distinct(digests)
    return _share(names, copies, fraction, seed)[codes]


def _share(names: Names, copies: Array, fraction: float, seed: int) -> Array:
    """Which names are held out, each of which is of `copies` rows: bool [names]."""
    rows = int(copies.sum())
    chosen = np.zeros(len(names), bool)
    if fraction == 0 or not rows:
        return chosen
    ranked = _by_rank(names, seed)[:-1]  # the last one stays to train on
    before = np.cumsum(copies[ranked], dtype=np.int64) - copies[ranked]
    chosen[ranked[before < max(1, round(fraction * rows))]] = True
    return chosen


@dataclass(frozen=True, slots=True)
class Kin:
    """What a row must not be parted from: rows with this `prompt` (a digest), and where rows are
    grouped by a column those of this `group`. `stratum`: the value of the column to stratify by.
    """

    prompt: str
    group: str | None = None
    stratum: str | None = None


@dataclass(frozen=True)
class Family:
    """The `Kin` of all rows, column by column. Owners (data/dividing/facts.py) and strata: None
    where no row has a group or a stratum."""

    prompts: Names
    owners: Names | None = None
    strata: Strata | None = None

    @staticmethod
    def of(rows: Sequence[Kin]) -> Family:
        """Of rows one by one."""
        prompts, strata = [row.prompt for row in rows], [row.stratum for row in rows]
        grouped = any(row.group is not None for row in rows)
        return Family(
            _names(prompts),
            _names([owner(row.prompt, row.group) for row in rows]) if grouped else None,
            Strata.of(strata) if any(each is not None for each in strata) else None,
        )


def held_out_kin(
    rows: Sequence[Kin] | Family, fraction: float, seed: int, *, stable: bool
) -> list[bool]:
    """For each row, is it held out? Rows that belong together are on one side.

    Not `stable`: the share of each stratum is met as `held_out` does it. `stable`: the hash of a
    row's own unit (see `units_of`) decides, whatever other rows there are, so the share is met on
    average only. Of a stratum with two units or more at least one is held out and one is not, in
    either case; without strata `stable` promises nothing of the kind. The order of the rows never
    matters.
    """
    family = rows if isinstance(rows, Family) else Family.of(rows)
    return list(sides_of_kin(family, fraction, seed, stable=stable).tolist())


def sides_of_kin(family: Family, fraction: float, seed: int, *, stable: bool) -> Array:
    """As `held_out_kin`: bool [n]."""
    names, units = _units(family)
    chosen = np.zeros(len(names), bool)
    if not len(units):
        return chosen[units]
    strata = _stratum_of_units(family, units, len(names))
    if not stable or fraction == 0:
        copies = np.bincount(units, minlength=len(names))
        for members in _members(strata):
            share = _share(_at(names, members), copies[members], fraction, seed)
            chosen[members] = share
        return chosen[units]
    chosen[:] = np.fromiter((_hashed_below(name, fraction, seed) for name in names), bool)
    if family.strata is not None:
        for members in _members(strata):
            _keep_one_on_each_side(members, chosen, names, seed)
    return chosen[units]


def units_of(rows: Sequence[Kin] | Family) -> list[str]:
    """The name of each row's unit: of the rows that are tied to it by a prompt or a group.

    Without groups a unit is a prompt. With them it is a group, or several that are tied by a prompt
    which they share; then its name is the first of their digests, so that rows that are added to a
    group never rename it.
    """
    names, units = _units(rows if isinstance(rows, Family) else Family.of(rows))
    texts = [name.decode() for name in names]
    return [texts[unit] for unit in units]


def unit_count(family: Family) -> int:
    """How many units there are."""
    return len(_units(family)[0])


def _units(family: Family) -> tuple[Names, Array]:
    """Names of the units in order [u], and the number of each row's unit [n].

    Names are in order, so the first of several digests is the one with the smallest number.
    """
    if family.owners is None:
        names, own, _ = _distinct(family.prompts)
        return names, own
    names, own, _ = _distinct(family.owners)
    own = _tied(own, _distinct(family.prompts)[1], len(names))[own]
    used = np.zeros(len(names), bool)
    used[own] = True
    return _at(names, np.flatnonzero(used)), (np.cumsum(used, dtype=own.dtype) - 1)[own]


def _tied(own: Array, prompts: Array, count: int) -> Array:
    """For each of `count` names the first of those that it is tied to by a prompt."""
    names = array("q", range(count))

    def find(name: int) -> int:
        while names[name] != name:
            names[name] = names[names[name]]  # halve the path
            name = names[name]
        return name

    first_of_prompt = array("q", [-1]) * (int(prompts.max(initial=-1)) + 1)
    for begin in range(0, len(own), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        for name, prompt in zip(own[block].tolist(), prompts[block].tolist(), strict=True):
            if first_of_prompt[prompt] < 0:
                first_of_prompt[prompt] = name
            here, there = find(name), find(first_of_prompt[prompt])
            names[max(here, there)] = min(here, there)
    return np.fromiter((find(name) for name in range(count)), own.dtype, count)


def _stratum_of_units(family: Family, units: Array, count: int) -> Array:
    """Of each unit the number of the stratum that most of its rows are of; among equals the first
    by its name. All 0 without strata."""
    if family.strata is None:
        return np.zeros(count, np.int32)
    ranked, width = family.strata.ranked(), len(family.strata.names)
    found = np.empty(count, np.int32)
    by_unit = np.argsort(units, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(units, minlength=count))
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        rows = by_unit[ends[first - 1] if first else 0 : ends[last - 1]]
        own = units[rows].astype(np.int64) - first
        found[first:last] = _most_frequent(own, ranked[rows], width)
    return found


def _most_frequent(units: Array, codes: Array, width: int) -> Array:
    """Of units from 0 on the code, below `width`, that most of their rows have, or the lowest."""
    pairs, rows = np.unique(units * width + codes, return_counts=True)
    owners, codes = np.divmod(pairs, width)
    best = np.lexsort((codes, -rows, owners))
    _, first = np.unique(owners[best], return_index=True)
    return np.asarray(codes[best][first])


def _members(strata: Array) -> list[Array]:
    """The numbers of the units of each stratum."""
    return [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]


def _keep_one_on_each_side(members: Array, chosen: Array, names: Names, seed: int) -> None:
    """Add the first by rank of `members` to `chosen`, or take the last away, where need be."""
    ranked = members[_by_rank(_at(names, members), seed)]
    if len(ranked) < 2:
        chosen[ranked] = False
    elif not chosen[ranked].any():
        chosen[ranked[0]] = True
    elif chosen[ranked].all():
        chosen[ranked[-1]] = False


def _names(texts: Sequence[str] | Names) -> Names:
    """Texts (ASCII) as they are compared."""
    if isinstance(texts, Digests):
        return texts
    return np.asarray(texts, "S") if len(texts) else np.empty(0, "S1")


def _distinct(names: Names) -> tuple[Names, Array, Array]:
    """The names in order, each once; the number of each row's; how many rows each is of."""
    if isinstance(names, Digests):
        found = ordered(names)
        return names.take(found.firsts()), found.codes(), found.copies()
    return np.unique(names, return_inverse=True, return_counts=True)


def _at(names: Names, indexes: Array) -> Names:
    return names.take(indexes) if isinstance(names, Digests) else names[indexes]


def _by_rank(names: Names, seed: int) -> Array:
    """Indexes of `names` in the order of their ranks."""
    if isinstance(names, Digests):
        return ordered(names.hashed(f"{seed}:")).order
    ranks = (_rank(name, seed).encode() for name in names)
    return np.argsort(np.fromiter(ranks, "S64", len(names)))


def _hashed_below(unit: bytes, fraction: float, seed: int) -> bool:
    return int(_rank(unit, seed)[:16], 16) < fraction * 2**64


def _rank(name: bytes, seed: int) -> str:
    return sha256(f"{seed}:".encode() + name).hexdigest()
