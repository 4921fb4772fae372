"""A chain of recipes, one starting from what the other gives: its plan, the innermost first.

        sft.yaml:  fetch ── prepare ── train ── merge ──┐
        dpo.yaml:                                       └─ fetch ── prepare ── train ── …

A recipe may have a second one before it, whose reward model scores its answers:

        reward.yaml:  fetch ── prepare ── train ──┐
        ppo.yaml:                                 └─ fetch_reward ── train ── …

Each recipe keeps its own runs, stages and keys, so a base recipe that was run by itself is not run
again, and two recipes that start from it share what it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.execution.run_folder import runs_folder
from runner.plan.plan import Action, Step, make_plan, needs_of
from runner.plan.snapshot import Snapshot, take_snapshot
from runner.stages import harness, stages_of
from runner.stages.models.base_result import (
    given_stages,
    last_stage,
    scored_by_recipe,
    starts_from_recipe,
)

if TYPE_CHECKING:
    from pathlib import Path

    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage
    from runner.store.store import Store

# What a run of one recipe takes: recipes with their stages, those that are run first come first.
Parts = Sequence[tuple["Recipe", Sequence["Stage"]]]


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
        """What the recipe that names this one is handed; nothing while it is not known."""
        names, outputs = (
            given_stages(self.recipe),
            {step.stage: step.outputs for step in self.steps},
        )
        found = {named: outputs[stage] for stage, named in names.items()}
        return {named: each for named, each in found.items() if each is not None}


def before(recipe: Recipe) -> list[Recipe]:
    """The recipes that `recipe` itself names and that are run before it."""
    base = recipe.base if starts_from_recipe(recipe) else None
    scorer = recipe.scorer if scored_by_recipe(recipe) else None
    return [each for each in (base, scorer) if each is not None]


def bases_of(recipe: Recipe) -> list[Recipe]:
    """The recipes that are run before `recipe`, the innermost first, each once."""
    found: list[Recipe] = []
    for each in before(recipe):
        found += [one for one in [*bases_of(each), each] if not any(map(same(one), found))]
    return found


def same(recipe: Recipe) -> Callable[[Recipe], bool]:
    """Is another one this very recipe, with paths that start at the same place?"""
    return lambda other: other == recipe and other.source.path == recipe.source.path


def stages_of_base(base: Recipe) -> list[Stage]:
    """What of a recipe is run for the one that starts from it: all up to the model it gives."""
    return stages_of(base, last_stage(base))


def needed_of_base(base: Recipe) -> list[Stage]:
    """Of these, what decides the model: its evaluation does not."""
    stages, needed = stages_of_base(base), {last_stage(base)}
    for stage in reversed(stages):
        needed |= set(needs_of(stage, stages, base)) if stage.NAME in needed else set()
    return [stage for stage in stages if stage.NAME in needed]


def stages_to_compare(recipe: Recipe) -> list[Stage]:
    """What is run of a recipe that another one is compared with: all up to what was measured."""
    return stages_of(recipe, "harness" if harness.wanted(recipe) else "evaluate")


def compared_in(recipe: Recipe, stages: Sequence[Stage]) -> Sequence[Recipe]:
    """What a run of `stages` of `recipe` is compared with: nothing where it is not measured."""
    return recipe.compared if any(stage.NAME == "evaluate" for stage in stages) else ()


def parts_of(recipe: Recipe, stages: Sequence[Stage]) -> Parts:
    """The recipes that a run of `stages` of `recipe` takes; its own is the last."""
    beside = [(each, stages_to_compare(each)) for each in compared_in(recipe, stages)]
    found: list[tuple[Recipe, Sequence[Stage]]] = []
    for each, its_stages in (*beside, (recipe, stages)):
        found += [(base, stages_of_base(base)) for base in bases_of(each)]
        found.append((each, its_stages))
    return found


def plan_compared(recipe: Recipe, stages: Sequence[Stage], store: Store) -> list[list[Link]]:
    """Of each recipe that it is compared with, the plans that `plan_chain` makes."""
    beside = compared_in(recipe, stages)
    return [plan_chain(each, stages_to_compare(each), store) for each in beside]


def plan_chain(recipe: Recipe, stages: list[Stage], store: Store) -> list[Link]:
    """The plans of all recipes that a run of `stages` of `recipe` takes; its own is the last."""
    links: list[Link] = []
    todo = [(base, stages_of_base(base)) for base in bases_of(recipe)]
    for each, its_stages in [*todo, (recipe, stages)]:
        given: dict[str, Outputs] = {}
        for named in before(each):
            given |= next(link.given() for link in links if same(named)(link.recipe))
        runs = runs_folder(each.project_root, each.name)
        snapshot = take_snapshot(each, its_stages, store, runs, given)
        links.append(Link(each, its_stages, snapshot, make_plan(each, its_stages, snapshot)))
    return links
