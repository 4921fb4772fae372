"""A stage that ran out of memory: what was planned for it, by kind, and changes that fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from runner.errors import StageFailed
from runner.execution.lacks import gb
from runner.recipe.typed import typed

if TYPE_CHECKING:
    from pathlib import Path

    from runner.plan.job import Memory
    from runner.recipe.model import Recipe

GPU_IS_FULL = "E509"
_KERNEL_KILLED = re.compile(r"was killed by SIGKILL.*memory")  # system/process.py says so
_PHASES = ("train", "evaluate", "harness", "constants", "fidelity")  # by the names of stages
_KINDS = 4  # that are named, the largest
_CHANGES = 3
_LESS = 0.9  # of what was planned


def explain(error: StageFailed, recipe: Recipe, events: Path) -> None:
    """Add the plan of the phase and the best changes to an error that is about memory.

    `events`: of the run, which tell whether the model was loaded when its training ended.
    """
    phase = error.stage
    if phase not in _PHASES or not (
        error.code == GPU_IS_FULL or _KERNEL_KILLED.search(error.message)
    ):
        return
    if phase == "train" and not _was_loaded(events):
        phase = "load"
    from runner.plan.cost import known_shapes
    from runner.plan.fit import single_changes, ways_that_fit
    from runner.plan.job import Job
    from runner.plan.machines import this_hardware
    from runner.plan.phases import phases_of
    from runner.plan.published_models import facts_at_hand

    shapes, _ = known_shapes(recipe, facts_at_hand(recipe))
    if shapes is None:
        return
    machine = this_hardware()
    job = replace(Job.of(recipe), pages=not machine.unified)
    planned = phases_of(shapes, job, machine.device).get(phase)
    if planned is None:
        return
    error.message += f"\n  planned: about {gb(planned.total)} in {phase}: {_kinds(planned)}"
    # It did not fit, whatever the plan said: what is proposed must take clearly less.
    room = min(machine.budget, int(_LESS * planned.total))
    ways = ways_that_fit(shapes, job, phase, room, machine.device)
    if ways:
        told = [f"{' and '.join(words)} (about {gb(size)})" for words, size in ways[:_CHANGES]]
        least = "; or ".join(told)
    else:
        least = _least(single_changes(shapes, job, phase, machine.device), machine.budget)
    command = f"recipe plan {typed(recipe)} --hardware all"
    error.hint = f"{least}; `{command}` counts for other machines"


def _least(changes: list[tuple[str, int]], budget: int) -> str:
    """The changes that take least, where none and not all of them together fit."""
    told = "; ".join(f"{words} (about {gb(size)})" for words, size in changes[:_CHANGES])
    return f"no known change makes it fit {gb(budget)}; least takes {told or 'what was planned'}"


def _was_loaded(events: Path) -> bool:
    """Every training of ours measures what lies in memory when its model is there."""
    try:
        with events.open("rb") as lines:
            return any(b'"memory_by_phase"' in line for line in lines)
    except OSError:
        return False


def _kinds(planned: Memory) -> str:
    largest = sorted(planned.items, key=lambda item: -item.bytes)[:_KINDS]
    return ", ".join(f"{item.name} {gb(item.bytes)}" for item in largest)
