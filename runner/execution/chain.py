"""Run the recipes that a recipe starts from, where their results are missing: runs of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.execution.display import OpenDisplay, show_progress
from runner.execution.run_folder import RunFolder, runs_folder
from runner.plan.chain import stages_of_base
from runner.plan.plan import Action, make_plan
from runner.plan.snapshot import take_snapshot
from runner.stages.contract import Outputs
from runner.stages.models.base_result import BASE, MODEL, last_stage, starts_from_recipe

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage
    from runner.store.store import Store

Runs = Callable[["Recipe"], Path]


@dataclass(frozen=True)
class BaseResult:
    """What a recipe gave to the one that starts from it.

    `stages`: (stage, key) of all that it is made of, those of the recipes before it included.
    """

    name: str  # of the recipe
    outputs: Outputs
    stages: tuple[tuple[str, str], ...]

    def given(self) -> dict[str, Outputs]:
        """As `fetch` of the next recipe is handed it."""
        return {BASE: self.outputs}

    def as_data(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "recipe": self.name,
            "result": self.outputs.digest(MODEL),
            "stages": [{"name": name, "key": key} for name, key in self.stages],
        }


def own_runs(recipe: Recipe) -> Path:
    """Where the runs of `recipe` lie, whoever asks for one."""
    return runs_folder(recipe.project_root, recipe.name)


def ensure_base(
    recipe: Recipe,
    store: Store,
    cache: Path,
    *,
    stages_of: Callable[[Recipe], list[Stage]] = stages_of_base,
    runs: Runs = own_runs,
    open_display: OpenDisplay = show_progress,
    wait: bool = True,
) -> BaseResult | None:
    """What `recipe` starts from, made now where `store` does not have it; None: no other recipe.

    `stages_of`: what is run of a base recipe; `runs`: where its run gets its folder. Raises what a
    run raises.
    """
    base = recipe.base
    if base is None or not starts_from_recipe(recipe):
        return None
    before = ensure_base(
        base,
        store,
        cache,
        stages_of=stages_of,
        runs=runs,
        open_display=open_display,
        wait=wait,
    )
    given = before.given() if before else {}
    stages = stages_of(base)
    snapshot = take_snapshot(base, stages, store, runs(base), given)
    steps = make_plan(base, stages, snapshot)
    if all(step.action is Action.REUSE for step in steps):
        found = {step.stage: step.outputs for step in steps if step.outputs is not None}
    else:
        from runner.execution.execute import Execution

        run = RunFolder(runs(base))
        with open_display(run.events, [stage.NAME for stage in stages]) as display:
            display.say(f"the recipe {base.name}, which {recipe.name} starts from: {run.path}")
            execution = Execution(
                recipe=base,
                stages=stages,
                surroundings=snapshot.surroundings,
                store=store,
                run=run,
                cache=cache,
                wait=wait,
                on_poll=display.on_poll,
                say=display.say,
                until=stages[-1].NAME,
                base=before,
            )
            found = {result.name: result.outputs for result in execution.execute()}
    entries = tuple((name, outputs.key) for name, outputs in found.items())
    earlier = before.stages if before else ()
    return BaseResult(base.name, found[last_stage(base)], (*earlier, *entries))
