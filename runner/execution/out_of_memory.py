"""A stage that ran out of memory: what was planned for it, by kind, and what would take less."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runner.errors import StageFailed
from runner.execution.lacks import gb

if TYPE_CHECKING:
    from runner.plan.memory import Memory
    from runner.recipe.model import Recipe

GPU_IS_FULL = "E509"
_KERNEL_KILLED = re.compile(r"was killed by SIGKILL.*memory")  # system/process.py says so
_PHASES = ("train", "evaluate", "harness")  # of plan/fit.py, by the names of stages
_KINDS = 4  # that are named, the largest
_CHANGES = 3


def explain(error: StageFailed, recipe: Recipe) -> None:
    """Add the plan of the stage and the best changes to an error that is about memory."""
    phase = error.stage
    if phase not in _PHASES or not (
        error.code == GPU_IS_FULL or _KERNEL_KILLED.search(error.message)
    ):
        return
    from runner.plan.cost import known_shapes
    from runner.plan.fit import phases_of, single_changes
    from runner.plan.memory import Job
    from runner.recipe.model_facts import known_facts

    shapes, _ = known_shapes(recipe, known_facts(recipe))
    if shapes is None:
        return
    job = Job.of(recipe)
    planned = phases_of(shapes, job).get(phase)
    if planned is None:
        return
    error.message += f"\n  planned: about {gb(planned.total)} in {phase}: {_kinds(planned)}"
    less = [change for change in single_changes(shapes, job, phase) if change[1] < planned.total]
    if less:
        words = "; ".join(f"{what} (about {gb(size)})" for what, size in less[:_CHANGES])
        error.hint = f"{words}; `recipe plan --hardware` counts for other machines"


def _kinds(planned: Memory) -> str:
    largest = sorted(planned.items, key=lambda item: -item.bytes)[:_KINDS]
    return ", ".join(f"{item.name} {gb(item.bytes)}" for item in largest)
