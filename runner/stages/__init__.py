"""The stages of the chain, in the order in which they run. A new one is a module and a line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage

ORDER = (
    *("fetch", "fetch_reward", "fetch_data", "fetch_tasks", "prepare", "train", "evaluate"),
    *("harness", "constants", "merge", "fidelity", "imatrix"),
    *("gguf", "ollama", "benchmark"),
)


def load_stage(name: str) -> Stage:
    """The module that implements stage `name`."""
    return cast("Stage", importlib.import_module(f"runner.stages.{name}"))


def stages_of(recipe: Recipe, until: str | None = None) -> list[Stage]:
    """The stages that `recipe` asks for, in order, up to and including `until`.

    Raises UsageError (E008) where `until` is none of them: to run all of them is not meant.
    """
    last = len(ORDER) if until is None else ORDER.index(until) + 1
    stages = [stage for stage in map(load_stage, ORDER[:last]) if stage.wanted(recipe)]
    if until is not None and until not in (stage.NAME for stage in stages):
        names = [stage.NAME for stage in map(load_stage, ORDER) if stage.wanted(recipe)]
        raise UsageError(
            f"the recipe {recipe.name} has no stage {until}",
            hint=f"its stages are {', '.join(names)}",
            code="E008",
        )
    return stages
