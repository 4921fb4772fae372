"""Decide for every stage: run, reuse, resume or pending, with the reason.

        fetch ── prepare ── train ──┬── merge ── gguf ── ollama ── benchmark
                                    └── evaluate

Where a recipe starts from another one, `fetch` is handed what that one gave (plan/chain.py).

A stage whose upstream will run is `pending`: its key depends on bytes that do not exist yet, and if
they come out as before it will be reused after all (early cut-off).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.plan.keys import key_material, key_of
from runner.recipe.flow import flow
from runner.stages.contract import needed_by
from runner.stages.models.base_result import (
    BASE,
    BELOW_SCORER,
    SCORER,
    scored_by_recipe,
    starts_from_recipe,
)

if TYPE_CHECKING:
    from runner.plan.snapshot import Snapshot
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage

MAX_SHOWN = 24  # characters of a value in a reason


class Action(enum.StrEnum):
    """What will happen to a stage."""

    RUN = "run"
    REUSE = "reuse"
    RESUME = "resume"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of the plan. `key` and `material` are empty while it is pending."""

    stage: str
    action: Action
    reason: str
    key: str = ""
    material: Mapping[str, Any] | None = None
    outputs: Outputs | None = None


def make_plan(recipe: Recipe, stages: list[Stage], snapshot: Snapshot) -> list[Step]:
    """One step a stage, in order. Pure: everything it knows of the machine is in `snapshot`."""
    steps: list[Step] = []
    known = dict(snapshot.given)
    for stage in stages:
        if reason := unresolved(stage, recipe):
            steps.append(Step(stage.NAME, Action.PENDING, reason))
            continue
        missing = [name for name in needs_of(stage, stages, recipe) if name not in known]
        if missing:
            reason = f"depends on the bytes that {_in_words(missing[0], recipe)} will give"
            steps.append(Step(stage.NAME, Action.PENDING, reason))
            continue
        step = _decide(stage, recipe, upstream_of(stage, known), snapshot)
        steps.append(step)
        if step.outputs is not None:
            known[stage.NAME] = step.outputs
    return steps


def needs_of(stage: Stage, stages: list[Stage], recipe: Recipe) -> list[str]:
    """What `stage` is handed: upstream stages of this chain, the result of another recipe."""
    chain = {other.NAME for other in stages}
    if starts_from_recipe(recipe):
        chain.add(BASE)
    if scored_by_recipe(recipe):
        chain |= {SCORER, BELOW_SCORER}
    return [name for name in needed_by(stage, recipe) if name in chain]


def _in_words(needed: str, recipe: Recipe) -> str:
    others = {BASE: recipe.base, SCORER: recipe.scorer, BELOW_SCORER: recipe.scorer}
    other = others.get(needed)
    return needed if other is None else f"the recipe {other.name}"


def unresolved(stage: Stage, recipe: Recipe) -> str:
    """Why a stage's key cannot be known before the run; a stage may offer `unresolved(recipe)`."""
    ask = getattr(stage, "unresolved", None)
    return "" if ask is None else str(ask(recipe))


def upstream_of(stage: Stage, known: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """What `stage` is handed: the outputs of the stages it names, no others."""
    return {name: known[name] for name in stage.NEEDS if name in known}


def _decide(
    stage: Stage, recipe: Recipe, upstream: Mapping[str, Outputs], snapshot: Snapshot
) -> Step:
    material = key_material(stage, recipe, upstream, snapshot.surroundings)
    key = key_of(material)
    entry = snapshot.entries.get((stage.NAME, key))
    if entry is not None and entry.outputs is not None:
        lost = snapshot.lost_effects.get((stage.NAME, key), "")
        if not lost:
            return Step(stage.NAME, Action.REUSE, "up to date", key, material, entry.outputs)
        return Step(stage.NAME, Action.RUN, lost, key, material)
    if (stage.NAME, key) in snapshot.resumable:
        return Step(
            stage.NAME, Action.RESUME, "an interrupted try left a checkpoint", key, material
        )
    if entry is not None and entry.detail:
        return Step(stage.NAME, Action.RUN, entry.detail, key, material)
    before = snapshot.previous.get(stage.NAME)
    reason = explain_change(before, material) if before else "no stored result"
    return Step(stage.NAME, Action.RUN, reason, key, material)


def explain_change(before: Mapping[str, Any], now: Mapping[str, Any], limit: int = 3) -> str:
    """Name what differs between two materials: `inputs.train.learning_rate: 0.0002 → 0.0001`."""
    changes = list_changes(before, now)
    if not changes:
        return "the stored result is gone"
    more = f" (and {len(changes) - limit} more)" if len(changes) > limit else ""
    return "changed: " + "; ".join(changes[:limit]) + more


def list_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], width: int = MAX_SHOWN
) -> list[str]:
    """Every difference of two materials, one text each, in order of their names; values as YAML.

    A value longer than `width` characters is cut.
    """
    return [
        f"{path}: {_short(old, width)} → {_short(new, width)}"
        for path, old, new in _differences(before, now, "")
    ]


_ABSENT = object()


def _differences(before: Any, now: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            change
            for name in sorted({*before, *now})
            for change in _differences(
                before.get(name, _ABSENT), now.get(name, _ABSENT), f"{path}.{name}".lstrip(".")
            )
        ]
    lists = isinstance(before, list | tuple) and isinstance(now, list | tuple)
    if lists and len(before) == len(now):
        return _differences(_numbered(before), _numbered(now), path)
    return [] if before == now else [(path, before, now)]


def _numbered(items: Sequence[Any]) -> dict[str, Any]:
    return {str(number): item for number, item in enumerate(items)}


def _short(value: Any, width: int) -> str:
    if value is _ABSENT:
        return "(none)"
    text = flow(value)
    return text if len(text) <= width else text[: width // 2] + "…"
