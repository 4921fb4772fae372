"""From the rows of all files to those that are trained on and those that are held out.

In this order: `limit` of each source, the split, the check for leaks, the mix. Settings: seed,
fraction, train and validation (files), and where they are given split ({stable, group_by,
stratify, on_leak}) and, in an item of train, weight, repeat and limit. Without any of them rows
keep the order of the files. near: are held-out rows counted that stand in training too, but for
case and blanks?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from runner.scripts.data.chunks.digests import first_of
from runner.scripts.data.chunks.stored import StoredRows, taken
from runner.scripts.data.dividing.facts import Facts, facts_of, goes_by_kin
from runner.scripts.data.dividing.kinship import Row
from runner.scripts.data.dividing.mixing import is_mixed, limited, mixed, no_row_of, shuffled
from runner.scripts.data.dividing.split import Family, sides_of_kin, sides_of_share, unit_count
from runner.scripts.data.files.rows import MAX_SHOWN
from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import Array

R = TypeVar("R", bound=Row)
Dropped = Callable[[str | None], str]  # of a file, or of all (None)
Sift = Callable[[Sequence[Any], Sequence[Any]], list[bool]]


@dataclass(frozen=True)
class Division(Generic[R]):
    """Rows to train on (a row may stand there several times) and rows to measure with."""

    train: Sequence[R]
    validation: Sequence[R]
    sources: list[dict[str, Any]]  # of each item of data.train: file, rows read, taken, held out
    leaks: dict[str, Any]  # what was left out of training; {} where nothing was to be
    excess: dict[str, Any] = field(default_factory=dict)  # see `_excess`; {} for the most part
    near: dict[str, Any] = field(default_factory=dict)  # see `_near`; {} where there are none

    def measures(self, trained: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
        """For run.json. `trained`: source -> rows and tokens that are trained on."""
        rows = sum(count for count, _ in trained.values())
        told = []
        for number, source in enumerate(self.sources):
            count, tokens = trained.get(number, (0, 0))
            share = round(count / rows, 4) if rows else 0.0
            told.append({**source, "trained": count, "tokens": tokens, "share": share})
        return {"sources": told, **({"leaks": self.leaks} if self.leaks else {})} | (
            ({"held_out": self.excess} if self.excess else {})
            | ({"near_copies": self.near} if self.near else {})
        )


def divide(
    train: Sequence[R],
    validation: Sequence[R],
    settings: Mapping[str, Any],
    plain: Callable[[R], str],
    sift: Sift | None = None,
    dropped: Dropped = lambda _: "",
) -> Division[R]:
    """Lists for lists, stored rows for stored rows, whose facts tell what is compared.

    Raises ScriptError E360 (an empty side), E362 (a leak), E363, E364 (a mix that cannot be).
    `plain`: digest of what a split without settings keeps together. `sift`: which rows to train on
    are left beside those that are held out (cleaning). `dropped`: what cleaning left out of a file.
    """
    sources, seed = settings["train"], settings["seed"]
    read = _by_source(train)
    if is_mixed(sources):
        train = limited(train, sources, seed)
    counted = _by_source(train)
    excess = {}
    if not settings["validation"]:
        train, validation = _split(train, settings, plain, dropped)
        excess = _excess(len(train), len(validation), settings["fraction"])
    kept = _by_source(train)
    train, leaks = _without_leaks(train, validation, plain, settings)
    beside = _by_source(train)
    if sift:
        train = taken(train, np.flatnonzero(sift(train, validation)))
    left = _by_source(train)
    near = _near(train, validation, plain, settings)
    if is_mixed(sources):
        _check_weights(_by_source(train), sources, dropped)
        train = mixed(train, sources, seed)
        if not settings["validation"]:
            validation = shuffled(validation, seed)
    counts = [
        {"file": source["name"], "read": read[number], "taken": counted[number]}
        | ({} if settings["validation"] else {"held_out": counted[number] - kept[number]})
        | _if_any("leaking", kept[number] - beside[number])
        | _if_any("contaminated", beside[number] - left[number])
        for number, source in enumerate(sources)
    ]
    return Division(train, validation, counts, leaks, excess, near)


def _if_any(name: str, count: int) -> dict[str, int]:
    return {name: count} if count else {}


def _check_weights(
    left: Mapping[int, int], sources: Sequence[Mapping[str, Any]], dropped: Dropped
) -> None:
    """Raises ScriptError E363 for a source with a weight of which no row is left."""
    for number, source in enumerate(sources):
        if "weight" in source and not left.get(number):
            raise no_row_of(source, dropped(source["name"]))


def sums_by_source(sources: Array, tokens: Sequence[int] | Array) -> dict[int, tuple[int, int]]:
    """Source -> its rows, and how many of the `tokens` (one number a row) are theirs."""
    lengths = np.asarray(tokens, np.int64)
    return {
        int(source): (int(own.sum()), int(lengths[own].sum()))
        for source in np.unique(sources)
        for own in [sources == source]
    }


def _by_source(rows: Sequence[Row]) -> Counter[int]:
    if isinstance(rows, StoredRows):
        counts = np.bincount(rows.facts.sources)
        return Counter({number: int(count) for number, count in enumerate(counts) if count})
    return Counter(row.traits.source for row in rows)


def _split(
    rows: Sequence[R],
    settings: Mapping[str, Any],
    plain: Callable[[R], str],
    dropped: Dropped = lambda _: "",
) -> tuple[Sequence[R], Sequence[R]]:
    """Training and validation rows, each in the order of the files. Raises ScriptError E360."""
    wanted, fraction, seed = settings.get("split", {}), settings["fraction"], settings["seed"]
    facts, by_kin = _facts(rows, plain, settings), goes_by_kin(settings)
    if by_kin:
        assert facts.prompts is not None
        owners = facts.owners if facts.has_groups else None
        family = Family(facts.prompts, owners, facts.strata)
        sides = sides_of_kin(family, fraction, seed, stable="stable" in wanted)
    else:
        sides = sides_of_share(facts.plain, fraction, seed)
    if by_kin and fraction and (sides.all() or not sides.any()):
        side, gone = "left to train on" if sides.all() else "held out", dropped(None)
        raise ScriptError(
            f"no row is {side}: {_are_of(len(rows), unit_count(family))}, and "
            f"data.validation.fraction is {fraction:g}"
            + (f"; data.clean dropped other rows before: {gone}" if gone else ""),
            hint=_more_sides("stable" in wanted),
            code="E360",
        )
    return taken(rows, np.flatnonzero(~sides)), taken(rows, np.flatnonzero(sides))


def _are_of(rows: int, units: int) -> str:
    if units == 1:
        many = "row is" if rows == 1 else "rows are all"
        return f"the {rows} {many} of one prompt or group, which is not parted"
    return f"the {rows} rows are of {units} prompts or groups, none of which is parted"


def _more_sides(stable: bool) -> str:
    """What gives both sides rows."""
    if stable:
        return (
            "give more rows, or another fraction; without stable, some are held out wherever "
            "there are two prompts or groups"
        )
    return (
        "give rows of more prompts or groups: one is never parted; or write another column in "
        "group_by, or leave it out"
    )


def _excess(trained: int, held: int, fraction: float) -> dict[str, Any]:
    """Rows held out, of how many, and the fraction asked for, where they are none, or more than
    twice it: what belongs together is not parted. {} else."""
    rows = trained + held
    none = fraction > 0 and rows > 0 and not held
    if not none and held <= 2 * max(1, round(fraction * rows)):
        return {}
    return {"rows": held, "of": rows, "fraction": fraction}


def _facts(rows: Sequence[Any], plain: Callable[[Any], str], settings: Mapping[str, Any]) -> Facts:
    return rows.facts if isinstance(rows, StoredRows) else facts_of(rows, plain, settings)


# --- leaks


def _without_leaks(
    train: Sequence[R],
    validation: Sequence[R],
    plain: Callable[[R], str],
    settings: Mapping[str, Any],
) -> tuple[Sequence[R], dict[str, Any]]:
    """The rows that may be trained on, and what was left out. Raises ScriptError E362 or E360."""
    on_leak = settings.get("split", {}).get("on_leak", "allow")
    if on_leak == "allow":
        return train, {}
    ours, held = _facts(train, plain, settings), _facts(validation, plain, settings)
    assert ours.prompts is not None and ours.contents is not None  # noqa: PT018
    assert held.prompts is not None and held.contents is not None  # noqa: PT018
    prompts, contents = (
        first_of(ours.prompts, held.prompts),
        first_of(ours.contents, held.contents),
    )
    leaking = np.flatnonzero(prompts >= 0)
    if len(leaking) and on_leak == "error":
        words = (
            _leak(train[index], validation[same if same >= 0 else prompt], same >= 0)
            for index, prompt, same in _numbers(leaking, prompts, contents)
        )
        raise ScriptError(
            "\n".join(_shown(words, len(leaking))),
            hint="remove one of the two; or write on_leak: drop in data.validation, which leaves "
            "such rows out of training, or allow; stable: true holds out all rows of a prompt",
            code="E362",
        )
    if len(leaking) and len(leaking) == len(train):
        raise ScriptError(
            "no row is left to train on: all of them are held out too",
            hint="name other files in data.validation",
            code="E360",
        )
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for index, prompt, same in _numbers(leaking, prompts, contents):
        what = "row" if same >= 0 else "prompt"
        dropped[what] += 1
        if what not in examples:
            held_row = validation[same if same >= 0 else prompt]
            examples[what] = _leak(train[index], held_row, same >= 0)
    told = {"dropped": dict(sorted(dropped.items())), "examples": examples}
    return taken(train, np.flatnonzero(prompts < 0)), told


def _near(
    train: Sequence[R],
    validation: Sequence[R],
    plain: Callable[[R], str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """How many held-out rows stand in training too, but for case and the spaces between words, of
    how many, and where the first pair is. {} where there are none, or nobody asks."""
    if not settings.get("near"):
        return {}
    ours, held = _facts(train, plain, settings), _facts(validation, plain, settings)
    assert ours.contents is not None and held.contents is not None  # noqa: PT018
    there = first_of(held.contents, ours.contents)
    near = np.flatnonzero(there >= 0)
    if not len(near):
        return {}
    first = int(near[0])
    pair = validation[first].place, train[int(there[first])].place
    return {"rows": len(near), "of": len(validation), "first": f"{pair[0]} and {pair[1]}"}


def _numbers(indexes: Array, *columns: Array) -> Iterator[tuple[int, ...]]:
    return zip(indexes.tolist(), *(column[indexes].tolist() for column in columns), strict=True)


def _leak(row: Row, held: Row, whole: bool) -> str:
    what = "row" if whole else "prompt"
    return f"{row.place}: the {what} is held out too, at {held.place}"


def _shown(lines: Iterator[str], count: int) -> list[str]:
    more = count - MAX_SHOWN
    shown = [line for line, _ in zip(lines, range(MAX_SHOWN), strict=False)]
    return [*shown, *([f"and {more} more rows"] if more > 0 else [])]
