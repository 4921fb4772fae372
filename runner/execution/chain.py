"""Run the recipes that a recipe starts from, where their results are missing: runs of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.execution.display import OpenDisplay, show_progress
from runner.execution.run_folder import RunFolder, runs_folder
from runner.plan.chain import stages_of_base
from runner.plan.plan import Action, make_plan
from runner.plan.snapshot import take_snapshot
from runner.stages.contract import Outputs
from runner.stages.models.base_result import BASE, MODEL, last_stage, starts_from_recipe

if TYPE_CHECKING:
    from runner.execution.execute import StageResult
    from runner.plan.snapshot import Snapshot
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage
    from runner.store.store import Store

Runs = Callable[["Recipe"], Path]


class RunBase(Protocol):
    """Runs `stages` of a base recipe, which starts from `before` itself."""

    def __call__(
        self, base: Recipe, stages: list[Stage], snapshot: Snapshot, before: BaseResult | None
    ) -> list[StageResult]: ...


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


def runner_of(
    store: Store,
    cache: Path,
    *,
    runs: Runs = own_runs,
    open_display: OpenDisplay = show_progress,
) -> RunBase:
    """Runs a base recipe, with a run's folder below what `runs` says."""

    def run_base(
        base: Recipe, stages: list[Stage], snapshot: Snapshot, before: BaseResult | None
    ) -> list[StageResult]:
        from runner.execution.execute import Execution

        run = RunFolder(runs(base))
        with open_display(run.events, [stage.NAME for stage in stages]) as display:
            return Execution(
                recipe=base,
                stages=stages,
                surroundings=snapshot.surroundings,
                store=store,
                run=run,
                cache=cache,
                on_poll=display.on_poll,
                say=display.say,
                until=stages[-1].NAME,
                base=before,
            ).execute()

    return run_base


def ensure_base(
    recipe: Recipe,
    store: Store,
    run_base: RunBase,
    *,
    stages_of: Callable[[Recipe], list[Stage]] = stages_of_base,
    runs: Runs = own_runs,
) -> BaseResult | None:
    """What `recipe` starts from, made now where `store` does not have it; None: no other recipe.

    `stages_of`: what is run of a base recipe; `runs`: where its runs lie. Raises what a run raises.
    """
    base = recipe.base
    if base is None or not starts_from_recipe(recipe):
        return None
    before = ensure_base(base, store, run_base, stages_of=stages_of, runs=runs)
    stages = stages_of(base)
    given = before.given() if before else {}
    snapshot = take_snapshot(base, stages, store, runs(base), given)
    steps = make_plan(base, stages, snapshot)
    if all(step.action is Action.REUSE for step in steps):
        found = {step.stage: step.outputs for step in steps if step.outputs is not None}
    else:
        results = run_base(base, stages, snapshot, before)
        found = {result.name: result.outputs for result in results}
    entries = tuple((name, outputs.key) for name, outputs in found.items())
    earlier = before.stages if before else ()
    return BaseResult(base.name, found[last_stage(base)], (*earlier, *entries))
