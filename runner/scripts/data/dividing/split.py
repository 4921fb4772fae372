"""Hold out rows by their content. numpy alone: a few numbers a row, whatever a row holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from runner.scripts.weights.floats import Array


def held_out(digests: Sequence[str] | Array, fraction: float, seed: int) -> list[bool]:
    """For each row, is it held out? About `fraction` of the rows, at least one, never all.

    Distinct contents are ranked by a hash of seed and content, and the first ones are taken. So
    equal rows are on the same side and nothing leaks, the order of the rows does not matter, and a
    row that is added moves few others.
    """
    if fraction == 0 or not len(digests):
        return [False] * len(digests)
    names, codes, copies = _distinct(digests)
    wanted = max(1, round(fraction * len(digests)))
    chosen = np.zeros(len(names), bool)
    taken = 0
    for index in _by_rank(names, seed)[:-1]:  # the last one stays to train on
        if taken >= wanted:
            break
        chosen[index] = True
        taken += int(copies[index])
    return list(chosen[codes].tolist())


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
    """The `Kin` of all rows, column by column. Groups and strata: None where no row has one."""

    prompts: Sequence[str] | Array
    groups: Sequence[str | None] | None = None
    strata: Sequence[str | None] | None = None

    @staticmethod
    def of(rows: Sequence[Kin]) -> Family:
        """Of rows one by one."""
        groups, strata = [row.group for row in rows], [row.stratum for row in rows]
        return Family(
            [row.prompt for row in rows],
            groups if any(group is not None for group in groups) else None,
            strata if any(stratum is not None for stratum in strata) else None,
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
    names, units = _units(family)
    if not len(units):
        return []
    strata = _stratum_of_units(family, units, len(names))
    if not stable or fraction == 0:
        sides = _by_share(names, units, strata, fraction, seed)
    else:
        chosen = np.array([_hashed_below(name.decode(), fraction, seed) for name in names], bool)
        if family.strata is not None:
            for members in _members(strata):
                _keep_one_on_each_side(members, chosen, names, seed)
        sides = chosen[units]
    return list(sides.tolist())


def units_of(rows: Sequence[Kin] | Family) -> list[str]:
    """The name of each row's unit: of the rows that are tied to it by a prompt or a group.

    Without groups a unit is a prompt. With them it is a group, or several that are tied by a prompt
    which they share; then its name is the first of their digests, so that rows that are added to a
    group never rename it.
    """
    names, units = _units(rows if isinstance(rows, Family) else Family.of(rows))
    return [names[unit].decode() for unit in units]


def unit_count(family: Family) -> int:
    """How many units there are."""
    return len(_units(family)[0])


def _units(family: Family) -> tuple[Array, Array]:
    """Names of the units in order [u], and the number of each row's unit [n].

    Names are in order, so the first of several digests is the one with the smallest number.
    """
    names, own, _ = _distinct(_own_names(family))
    if family.groups is not None:
        roots = _tied(own, _distinct(family.prompts)[1], len(names))
        used, own = np.unique(roots[own], return_inverse=True)
        names = names[used]
    return names, own


def _own_names(family: Family) -> Sequence[str] | Array:
    if family.groups is None:
        return family.prompts
    prompts = np.asarray(family.prompts, "S")
    return [
        prompt.decode() if group is None else _group_name(group)
        for prompt, group in zip(prompts, family.groups, strict=True)
    ]


def _tied(own: Array, prompts: Array, count: int) -> Array:
    """For each of `count` names the first of those that it is tied to by a prompt."""
    names = list(range(count))

    def find(name: int) -> int:
        while names[name] != name:
            names[name] = names[names[name]]  # halve the path
            name = names[name]
        return name

    first_of_prompt = [-1] * (int(prompts.max(initial=-1)) + 1)
    for name, prompt in zip(own.tolist(), prompts.tolist(), strict=True):
        if first_of_prompt[prompt] < 0:
            first_of_prompt[prompt] = name
        here, there = find(name), find(first_of_prompt[prompt])
        names[max(here, there)] = min(here, there)
    return np.array([find(name) for name in range(count)], np.int64)


def _group_name(group: str) -> str:
    return hashlib.sha256(f"group:{group}".encode()).hexdigest()


def _by_share(names: Array, units: Array, strata: Array, fraction: float, seed: int) -> Array:
    sides = np.zeros(len(units), bool)
    of_rows = strata[units]
    for stratum in np.unique(of_rows):
        rows = np.flatnonzero(of_rows == stratum)
        sides[rows] = held_out(names[units[rows]], fraction, seed)
    return sides


def _stratum_of_units(family: Family, units: Array, count: int) -> Array:
    """Of each unit the number of the stratum that most of its rows are of; among equals the first
    by its name. All 0 without strata."""
    if family.strata is None:
        return np.zeros(count, np.int64)
    order = {name: code for code, name in enumerate(sorted({each or "" for each in family.strata}))}
    codes = np.array([order[each or ""] for each in family.strata], np.int64)
    pairs, rows = np.unique(units * len(order) + codes, return_counts=True)
    owners, codes = np.divmod(pairs, len(order))
    best = np.lexsort((codes, -rows, owners))
    _, first = np.unique(owners[best], return_index=True)
    return np.asarray(codes[best][first])


def _members(strata: Array) -> list[Array]:
    """The numbers of the units of each stratum."""
    return [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]


def _keep_one_on_each_side(members: Array, chosen: Array, names: Array, seed: int) -> None:
    """Add the first by rank of `members` to `chosen`, or take the last away, where need be."""
    ranked = members[_by_rank(names[members], seed)]
    if len(ranked) < 2:
        chosen[ranked] = False
    elif not chosen[ranked].any():
        chosen[ranked[0]] = True
    elif chosen[ranked].all():
        chosen[ranked[-1]] = False


def _distinct(texts: Sequence[str] | Array) -> tuple[Array, Array, Array]:
    """The texts (ASCII) in order, each once; the number of each; how often each is there."""
    given: Any = np.asarray(texts, "S") if len(texts) else np.empty(0, "S1")
    return np.unique(given, return_inverse=True, return_counts=True)


def _by_rank(names: Array, seed: int) -> Array:
    """Indexes of `names` in the order of their ranks."""
    ranks = (_rank(name.decode(), seed).encode() for name in names)
    return np.argsort(np.fromiter(ranks, "S64", len(names)))


def _hashed_below(unit: str, fraction: float, seed: int) -> bool:
    return int(_rank(unit, seed)[:16], 16) < fraction * 2**64


def _rank(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()
