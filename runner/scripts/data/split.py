"""Hold out rows by their content. Standard library only."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class Kin:
    """What a row must not be parted from: rows with this `prompt` (a digest), and where rows are
    grouped by a column those of this `group`. `stratum`: the value of the column to stratify by.
    """

    prompt: str
    group: str | None = None
    stratum: str | None = None


def held_out_kin(rows: Sequence[Kin], fraction: float, seed: int, *, stable: bool) -> list[bool]:
    """For each row, is it held out? Rows that belong together are on one side.

    Not `stable`: the share of each stratum is met as `held_out` does it. `stable`: the hash of a
    row's own unit (see `units_of`) decides, whatever other rows there are, so the share is met on
    average only. Of a stratum with two units or more at least one is held out and one is not, in
    either case; without strata `stable` promises nothing of the kind. The order of the rows never
    matters.
    """
    units = units_of(rows)
    if not stable or fraction == 0:
        return _by_share(rows, units, fraction, seed)
    chosen = {unit for unit in set(units) if _hashed_below(unit, fraction, seed)}
    if any(row.stratum is not None for row in rows):
        for members in _units_by_stratum(rows, units).values():
            chosen = _one_on_each_side(members, chosen, seed)
    return [unit in chosen for unit in units]


def units_of(rows: Sequence[Kin]) -> list[str]:
    """The name of each row's unit: of the rows that are tied to it by a prompt or a group.

    Without groups a unit is a prompt. With them it is a group, or several that are tied by a prompt
    which they share; then its name is the first of their digests, so that rows that are added to a
    group never rename it.
    """
    names: dict[str, str] = {}

    def find(name: str) -> str:
        while names.setdefault(name, name) != name:
            names[name] = names[names[name]]  # halve the path
            name = names[name]
        return name

    first_of_prompt: dict[str, str] = {}
    own = [row.prompt if row.group is None else _group_name(row.group) for row in rows]
    for row, name in zip(rows, own, strict=True):
        here, there = find(name), find(first_of_prompt.setdefault(row.prompt, name))
        names[max(here, there)] = min(here, there)
    return [find(name) for name in own]


def _group_name(group: str) -> str:
    return hashlib.sha256(f"group:{group}".encode()).hexdigest()


def _by_share(rows: Sequence[Kin], units: Sequence[str], fraction: float, seed: int) -> list[bool]:
    strata = _stratum_of_units(rows, units)
    places: dict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        places[strata[unit]].append(index)
    sides = [False] * len(units)
    for indexes in places.values():
        out = held_out([units[index] for index in indexes], fraction, seed)
        for index, side in zip(indexes, out, strict=True):
            sides[index] = side
    return sides


def _stratum_of_units(rows: Sequence[Kin], units: Sequence[str]) -> dict[str, str]:
    """Unit -> the stratum that most of its rows are of; among equals the first by its name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row, unit in zip(rows, units, strict=True):
        counts[unit][row.stratum or ""] += 1
    return {
        unit: min(found, key=lambda stratum: (-found[stratum], stratum))
        for unit, found in counts.items()
    }


def _units_by_stratum(rows: Sequence[Kin], units: Sequence[str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for unit, stratum in _stratum_of_units(rows, units).items():
        members[stratum].append(unit)
    return members


def _one_on_each_side(members: Sequence[str], chosen: set[str], seed: int) -> set[str]:
    """`chosen` with the first by rank of `members` added, or the last taken away, where need be."""
    ranked = sorted(members, key=lambda unit: _rank(unit, seed))
    if len(ranked) < 2:
        return chosen - {*ranked}
    if not chosen & {*ranked}:
        return chosen | {ranked[0]}
    return chosen - {ranked[-1]} if chosen >= {*ranked} else chosen


def _hashed_below(unit: str, fraction: float, seed: int) -> bool:
    return int(_rank(unit, seed)[:16], 16) < fraction * 2**64


def _rank(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()
