"""A comparison as plain data: what every report is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from runner.compare.candidates import Candidate
from runner.compare.chains import completed
from runner.compare.costs import prices
from runner.compare.differences import (
    Difference,
    differences,
    digests,
    estimates,
    held,
    measures_of,
    pairs_of,
)
from runner.scripts.evaluation.examples import KINDS
from runner.scripts.evaluation.intervals import FEW, RESAMPLED, Estimate

SCHEMA = 1
# asked of every model, whatever its recipe held out
_NOT_HELD_OUT = frozenset(("question", "general", "neutral", "task"))


def as_data(found: Sequence[Candidate]) -> dict[str, Any]:
    """The whole comparison."""
    pairs = [_compared(one, other, found) for one, other in pairs_of(found)]
    return {
        "schema": SCHEMA,
        "interval": {"part": 0.95, "method": "paired bootstrap, percentile", "drawn": RESAMPLED},
        "few": FEW,
        "models": [_model(each) for each in found],
        "measures": [
            {"name": each.name, "title": each.title, "better": each.better}
            for each in measures_of(*found)
        ],
        "comparisons": [
            {
                "first": one.name,
                "second": other.name,
                "through": through,
                "held": _held(one, other),
                "differences": [_difference(each) for each in all_of],
                "prices": list(prices(one, other, all_of)),
            }
            for one, other, through, all_of in pairs
        ],
        "notes": list(_notes(found, [each for *_, all_of in pairs for each in all_of])),
    }


def _compared(
    one: Candidate, other: Candidate, found: Sequence[Candidate]
) -> tuple[Candidate, Candidate, list[str], list[Difference]]:
    """Two models with their differences, and the bases by which one of them was asked more."""
    first, before = completed(one, other, found)
    second, after = completed(other, one, found)
    through = [each.name for each in (before, after) if each is not None]
    return first, second, through, list(differences(first, second))


def _model(candidate: Candidate) -> dict[str, Any]:
    rows = digests(candidate)
    known = {
        name: _estimate(each) | {"digest": rows[name]}
        for name, each in estimates(candidate).items()
    }
    for name, value in candidate.means.items():
        alone = {"value": value, "low": None, "high": None, "count": None, "digest": None}
        known.setdefault(name, alone)
    return {
        "name": candidate.name,
        "side": candidate.side,
        "run": candidate.run,
        "base": candidate.base,
        "platform": candidate.platform,
        "held": held(candidate),
        "values": known,
        "cost": candidate.cost.as_data(),
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "count": found.count,
        "few": found.few,
        "alike": found.alike,
    }


def _held(one: Candidate, other: Candidate) -> list[dict[str, Any]]:
    """kind by kind: is it the same that both were measured on?"""
    sides = [held(one), held(other)]
    return [
        {
            "kind": kind,
            "same": sides[0].get(kind) == sides[1].get(kind),
            "common": sum(key[0] == kind for key in one.examples.keys() & other.examples.keys()),
            "first": sides[0].get(kind),
            "second": sides[1].get(kind),
        }
        for kind in dict.fromkeys((*sides[0], *sides[1]))
    ]


def _difference(found: Difference) -> dict[str, Any]:
    line: dict[str, Any] = {
        "measure": found.measure.name,
        "verdict": found.verdict,
        "estimate": None if found.estimate is None else _estimate(found.estimate),
        "why": found.why,
        "first_only": found.first_only,
        "second_only": found.second_only,
        "most": list(found.most),
    }
    if found.measure.name == "loss" and found.estimate is not None:
        line["perplexity_ratio"] = {
            name: exponential(getattr(found.estimate, name)) for name in ("value", "low", "high")
        }
    return line


def exponential(value: float | None) -> float | None:
    """e to the power of `value`; None where there is none, or too large a one for a float."""
    return None if value is None or value > 700 else math.exp(value)


def _notes(found: Sequence[Candidate], all_of: Sequence[Difference]) -> list[dict[str, str]]:
    """What a reader must know, each once."""
    notes = []
    bare = list(dict.fromkeys(each.name for each in found if not each.kept and each.side != "base"))
    if bare:
        notes.append(
            _note(
                "W920",
                f"{', '.join(bare)} kept no results of single examples: only questions can be "
                "compared",
                'add "metrics: true" to evaluate and run again; what was trained is reused',
            )
        )
    if without := list(_without_rows(found)):
        notes.append(
            _note(
                "W269",
                f"{', '.join(without)} held out no rows: nothing of the held-out rows of the "
                "others can be compared with it",
                "hold out the same rows (data.validation) in every recipe, and run it again",
            )
        )
    uneven = [each for each in all_of if each.estimate and (each.first_only or each.second_only)]
    if uneven or any("in common" in each.why for each in all_of):
        notes.append(
            _note(
                "W921",
                "some held-out rows or questions are not the same in both: differences are over "
                "the common ones only",
                "hold out by a file (data.validation.files) that the recipes share; pairs and "
                "answers: by one file in both forms (docs/evaluation.md)",
            )
        )
    platforms = list(dict.fromkeys(each.platform for each in found))
    if len(platforms) > 1:
        notes.append(
            _note(
                "W922",
                f"the runs are of different platforms: {', '.join(platforms)}",
                "small differences may come from that; evaluate both on one machine",
            )
        )
    return notes


def _without_rows(found: Sequence[Candidate]) -> Iterator[str]:
    """Trained models without results of held-out rows, where others have some or it has none."""
    held_out = {*KINDS} - _NOT_HELD_OUT
    trained = [each for each in found if each.side != "base" and each.kept]
    kinds = {each.name: {key[0] for key in each.examples} for each in trained}
    some = any(each & held_out for each in kinds.values())
    yield from (name for name, has in kinds.items() if not has & held_out and (some or not has))


def _note(code: str, message: str, hint: str) -> dict[str, str]:
    return {"code": code, "message": message, "hint": hint}
