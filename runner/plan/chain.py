"""A chain of recipes, one starting from what the other gives: its plan, the innermost first.

        sft.yaml:  fetch ── prepare ── train ── merge ──┐
        dpo.yaml:                                       └─ fetch ── prepare ── train ── …

Each recipe keeps its own runs, stages and keys, so a base recipe that was run by itself is not run
again, and two recipes that start from it share what it gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.execution.run_folder import runs_folder
from runner.plan.plan import Action, Step, make_plan
from runner.plan.snapshot import Snapshot, take_snapshot
from runner.stages import stages_of
from runner.stages.models.base_result import BASE, last_stage, starts_from_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage
    from runner.store.store import Store


@dataclass(frozen=True, slots=True)
class Link:
    """One recipe of the chain: its stages that are part of the plan, and what they would do."""

    recipe: Recipe
    stages: list[Stage]
    snapshot: Snapshot
    steps: list[Step]

    @property
    def runs(self) -> Path:
        """The folder of this recipe's runs."""
        return runs_folder(self.recipe.project_root, self.recipe.name)

    @property
    def finished(self) -> bool:
        """Is there nothing to do?"""
        return all(step.action is Action.REUSE for step in self.steps)

    def given(self) -> Mapping[str, Outputs]:
        """What the next recipe of the chain is handed; nothing while it is not known."""
        name = last_stage(self.recipe)
        found = next(step.outputs for step in self.steps if step.stage == name)
        return {} if found is None else {BASE: found}


def bases_of(recipe: Recipe) -> list[Recipe]:
    """The recipes that are run before `recipe`, the innermost first."""
    if not starts_from_recipe(recipe) or recipe.base is None:
        return []
    return [*bases_of(recipe.base), recipe.base]


def stages_of_base(base: Recipe) -> list[Stage]:
    """What of a recipe is run for the one that starts from it: all up to the model it gives."""
    return stages_of(base, last_stage(base))


def needed_of_base(base: Recipe) -> list[Stage]:
    """Of these, what decides the model: its evaluation does not."""
    stages, needed = stages_of_base(base), {last_stage(base)}
    for stage in reversed(stages):
        needed |= set(stage.NEEDS) if stage.NAME in needed else set()
    return [stage for stage in stages if stage.NAME in needed]


def plan_chain(recipe: Recipe, stages: list[Stage], store: Store) -> list[Link]:
    """The plans of all recipes that a run of `stages` of `recipe` takes; its own is the last."""
    links: list[Link] = []
    todo = [(base, stages_of_base(base)) for base in bases_of(recipe)]
    for each, its_stages in [*todo, (recipe, stages)]:
        given = links[-1].given() if links else {}
        runs = runs_folder(each.project_root, each.name)
        snapshot = take_snapshot(each, its_stages, store, runs, given)
        links.append(Link(each, its_stages, snapshot, make_plan(each, its_stages, snapshot)))
    return links
