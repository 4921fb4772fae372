"""What needs no answer of the hub to be refused, said before it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import RecipeToolError
from runner.execution.device import has_device, missing_device
from runner.execution.machines.contract import NO_ADDRESS
from runner.execution.run_folder import latest_run

if TYPE_CHECKING:
    from runner.recipe.model import Recipe


def refusal(
    recipe: Recipe, stages: Iterable[str], rendezvous: tuple[str, int] | None
) -> RecipeToolError | None:
    """Why this machine could not train it: no GPU (E960), or no address for others (E952).

    None where it can, or is not to train: `stages` are the names of those that are asked for.
    """
    if "train" not in stages:
        return None
    if not has_device(recipe):
        return missing_device(recipe)
    return NO_ADDRESS if recipe.train.nodes > 1 and rendezvous is None else None


def may_be_stored(runs: Path) -> bool:
    """Did a run end well, so that perhaps nothing is left to train?"""
    return latest_run(runs) is not None
