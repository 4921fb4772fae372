"""What needs no answer of the hub to be said: what this machine lacks, and what it cannot train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import RecipeToolError
from runner.execution.device import has_device, missing_device
from runner.execution.machines.contract import NO_ADDRESS
from runner.execution.preflight import too_large
from runner.execution.run_folder import latest_run, runs_folder

if TYPE_CHECKING:
    from runner.plan.chain import Parts
    from runner.recipe.model import Recipe


def refusal(
    recipe: Recipe,
    stages: Iterable[str],
    rendezvous: tuple[str, int] | None,
    *,
    load: bool = True,
) -> RecipeToolError | None:
    """Why this machine could not train it: no GPU (E960), no memory for its model (E940), or no
    address for others (E952).

    None where it can, or is not to train: `stages` are the names of those that are asked for.
    `load`: is it looked whether there is memory?
    """
    if "train" not in stages:
        return None
    if not has_device(recipe):
        return missing_device(recipe)
    if recipe.train.nodes > 1 and rendezvous is None:
        return NO_ADDRESS
    return too_large(recipe) if load else None


def lacks_of(parts: Parts) -> Iterator[str]:
    """What the machine lacks for those of them that nothing was run of, a line each.

    What a run gets by itself is left out.
    """
    from runner.execution.lacks import lacks
    from runner.plan.cost import cost_here
    from runner.plan.plan import Action, Step
    from runner.system.folders import cache_folder

    for recipe, stages in parts:
        runs = runs_folder(recipe.project_root, recipe.name)
        if may_be_stored(runs):
            continue
        steps = [Step(stage.NAME, Action.RUN, "not planned yet") for stage in stages]
        for lack in lacks(recipe, steps, cost_here(recipe, steps, runs), cache_folder()):
            if not lack.mends_itself:
                yield f"{recipe.name} {lack}" if len(parts) > 1 else str(lack)


def may_be_stored(runs: Path) -> bool:
    """Did a run end well, so that perhaps nothing is left to train?"""
    return latest_run(runs) is not None
