"""From the rows of all files to those that are trained on and those that are held out.

In this order: `limit` of each source, the split, the check for leaks, the mix. Standard library
only. Settings: seed, fraction, train and validation (files), and where they are given split
({stable, group_by, stratify, on_leak}) and, in an item of train, weight, repeat and limit. Without
any of them rows keep the order of the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from runner.scripts.data.kinship import Row, content_key, prompt_key
from runner.scripts.data.mixing import is_mixed, limited, mixed, shuffled
from runner.scripts.data.rows import MAX_SHOWN, Place
from runner.scripts.data.split import Kin, held_out, held_out_kin, units_of
from runner.scripts.spec import ScriptError

R = TypeVar("R", bound=Row)
Sift = Callable[[Sequence[Any], Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class Division(Generic[R]):
    """Rows to train on (a row may stand there several times) and rows to measure with."""

    train: list[R]
    validation: list[R]
    sources: list[dict[str, Any]]  # of each item of data.train: file, rows read, taken, held out
    leaks: dict[str, Any]  # what was left out of training; {} where nothing was to be

    def measures(self, trained: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
        """For run.json. `trained`: source -> rows and tokens that are trained on."""
        rows = sum(count for count, _ in trained.values())
        told = []
        for number, source in enumerate(self.sources):
            count, tokens = trained.get(number, (0, 0))
            share = round(count / rows, 4) if rows else 0.0
            told.append({**source, "trained": count, "tokens": tokens, "share": share})
        return {"sources": told, **({"leaks": self.leaks} if self.leaks else {})}


def divide(
    train: list[R],
    validation: list[R],
    settings: Mapping[str, Any],
    plain: Callable[[R], str],
    sift: Sift | None = None,
) -> Division[R]:
    """Raises ScriptError E360 (an empty side), E362 (a leak), E363, E364 (a mix that cannot be).

    `plain`: digest of what a split without settings keeps together. `sift`: which rows to train on
    are left beside those that are held out (cleaning).
    """
    sources, seed = settings["train"], settings["seed"]
    wanted, read = settings.get("split", {}), _by_source(train)
    if is_mixed(sources):
        train = limited(train, sources, seed)
    taken = _by_source(train)
    if not settings["validation"]:
        train, validation = _split(train, settings, plain)
    kept = _by_source(train)
    train, leaks = _without_leaks(train, validation, wanted.get("on_leak", "allow"))
    if sift:
        train = sift(train, validation)
    if is_mixed(sources):
        train = mixed(train, sources, seed)
        if not settings["validation"]:
            validation = shuffled(validation, seed)
    counts = [
        {"file": source["name"], "read": read[number], "taken": taken[number]}
        | ({} if settings["validation"] else {"held_out": taken[number] - kept[number]})
        for number, source in enumerate(sources)
    ]
    return Division(train, validation, counts, leaks)


def by_source(rows: Sequence[Row], tokens: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Source -> its rows, and how many of the `tokens` (one number a row) are theirs."""
    sums: Counter[int] = Counter()
    for row, count in zip(rows, tokens, strict=True):
        sums[row.traits.source] += count
    return {source: (count, sums[source]) for source, count in _by_source(rows).items()}


def _by_source(rows: Sequence[Row]) -> Counter[int]:
    return Counter(row.traits.source for row in rows)


def _split(
    rows: list[R], settings: Mapping[str, Any], plain: Callable[[R], str]
) -> tuple[list[R], list[R]]:
    """Training and validation rows, each in the order of the files. Raises ScriptError E360."""
    wanted, fraction, seed = settings.get("split", {}), settings["fraction"], settings["seed"]
    by_kin = {"stable", "group_by", "stratify"} & {*wanted}
    if by_kin:
        kin = [Kin(prompt_key(row), row.traits.group, row.traits.stratum) for row in rows]
        sides = held_out_kin(kin, fraction, seed, stable="stable" in wanted)
    else:
        sides = held_out([plain(row) for row in rows], fraction, seed)
    train = [row for row, out in zip(rows, sides, strict=True) if not out]
    validation = [row for row, out in zip(rows, sides, strict=True) if out]
    if by_kin and fraction and not (train and validation):
        side = "held out" if train else "left to train on"
        raise ScriptError(
            f"no row is {side}: the {len(rows)} rows are of {len({*units_of(kin)})} prompts or "
            f"groups, none of which is parted, and data.validation.fraction is {fraction:g}",
            hint="give more rows, or another fraction; without stable, some are held out wherever "
            "there are two prompts or groups",
            code="E360",
        )
    return train, validation


# --- leaks


def _without_leaks(
    train: list[R], validation: Sequence[R], on_leak: str
) -> tuple[list[R], dict[str, Any]]:
    """The rows that may be trained on, and what was left out. Raises ScriptError E362 or E360."""
    if on_leak == "allow":
        return train, {}
    contents: dict[str, Place] = {}
    prompts: dict[str, Place] = {}
    for row in validation:
        contents.setdefault(content_key(row), row.place)
        prompts.setdefault(prompt_key(row), row.place)
    kept: list[R] = []
    leaks: list[tuple[str, str]] = []
    for row in train:
        what, place = "prompt", prompts.get(prompt_key(row))
        if place is not None and (same := contents.get(content_key(row))):
            what, place = "row", same
        if place is None:
            kept.append(row)
        else:
            leaks.append((what, f"{row.place}: the {what} is held out too, at {place}"))
    if leaks and on_leak == "error":
        raise ScriptError(
            "\n".join(_shown([words for _, words in leaks])),
            hint="remove one of the two; or write on_leak: drop in data.validation, which leaves "
            "such rows out of training, or allow; stable: true holds out all rows of a prompt",
            code="E362",
        )
    if leaks and not kept:
        raise ScriptError(
            "no row is left to train on: all of them are held out too",
            hint="name other files in data.validation",
            code="E360",
        )
    dropped = Counter(what for what, _ in leaks)
    examples: dict[str, str] = {}
    for what, words in leaks:
        examples.setdefault(what, words)
    return kept, {"dropped": dict(sorted(dropped.items())), "examples": examples}


def _shown(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MAX_SHOWN
    return [*lines[:MAX_SHOWN], *([f"and {more} more rows"] if more > 0 else [])]
