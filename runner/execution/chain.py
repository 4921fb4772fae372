"""Run the recipes that a recipe starts from, or learns by, where their results are missing.

Each is a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.execution.display import OpenDisplay, show_progress
from runner.execution.run_folder import RunFolder, runs_folder
from runner.plan.chain import before, stages_of_base
from runner.plan.plan import Action, make_plan
from runner.plan.snapshot import take_snapshot
from runner.stages.contract import Outputs
from runner.stages.models.base_result import MODEL, SCORER, given_stages, last_stage

if TYPE_CHECKING:
    from runner.execution.execute import StageResult
    from runner.plan.snapshot import Snapshot
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage
    from runner.store.store import Store

Runs = Callable[["Recipe"], Path]


class RunBase(Protocol):
    """Runs `stages` of a base recipe, which is handed `before` itself."""

    def __call__(
        self, base: Recipe, stages: list[Stage], snapshot: Snapshot, before: BaseResult | None
    ) -> list[StageResult]: ...


@dataclass(frozen=True)
class BaseResult:
    """What the recipes gave that another one names: the model it starts from, its reward model.

    `results`: of each recipe, the digest of what it gave. `stages`: (stage, key) of all that these
    are made of, those of the recipes before them included. `outputs`: by the names that the stages
    of the other recipe have for them.
    """

    results: tuple[tuple[str, str], ...]  # name of the recipe, digest
    outputs: Mapping[str, Outputs]
    stages: tuple[tuple[str, str], ...]

    def given(self) -> Mapping[str, Outputs]:
        """As the stages of the next recipe are handed it."""
        return self.outputs

    def as_data(self) -> dict[str, Any]:
        """For run.json: the first recipe, and under `beside` the other one where there are two."""
        made = [{"recipe": name, "result": digest} for name, digest in self.results]
        return {
            **made[0],
            **({"beside": made[1:]} if made[1:] else {}),
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
    results: list[tuple[str, str]] = []
    outputs: dict[str, Outputs] = {}
    entries: dict[tuple[str, str], None] = {}
    for base in before(recipe):
        earlier = ensure_base(base, store, run_base, stages_of=stages_of, runs=runs)
        found = _ensured(base, store, run_base, stages_of(base), runs(base), earlier)
        results.append((base.name, _digest(found[last_stage(base)], base)))
        outputs |= {named: found[stage] for stage, named in given_stages(base).items()}
        own = [(name, each.key) for name, each in found.items()]
        entries |= dict.fromkeys([*(earlier.stages if earlier else ()), *own])
    return BaseResult(tuple(results), outputs, tuple(entries)) if results else None


def _ensured(
    base: Recipe,
    store: Store,
    run_base: RunBase,
    stages: list[Stage],
    runs: Path,
    earlier: BaseResult | None,
) -> dict[str, Outputs]:
    """The outputs of `stages`, from the store or from a run of the recipe."""
    snapshot = take_snapshot(base, stages, store, runs, earlier.given() if earlier else {})
    steps = make_plan(base, stages, snapshot)
    if all(step.action is Action.REUSE for step in steps):
        return {step.stage: step.outputs for step in steps if step.outputs is not None}
    results = run_base(base, stages, snapshot, earlier)
    return {result.name: result.outputs for result in results}


def _digest(outputs: Outputs, base: Recipe) -> str:
    """Of what a recipe gave: a model, or for a reward model what it trained."""
    return outputs.digest("*" if SCORER in given_stages(base).values() else MODEL)
