"""Levels `export` and `train`: do the work again in a clean place and compare every byte.

`export` starts from the run's own tokens, adapter and importance matrix, and derives merge, GGUF
and what Ollama gets; `train` starts from nothing but the recipe. The clean place has its own store,
run folder and Ollama models, and is removed at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot
from runner.plan.plan import list_changes
from runner.plan.snapshot import file_digests, read_surroundings
from runner.stages.contract import Class
from runner.stages.models.base_result import scored_by_recipe, starts_from_recipe
from runner.store.clean_place import clean_place
from runner.verify.differences import Difference, first_difference
from runner.verify.run import Run, open_derived

if TYPE_CHECKING:
    from runner.execution.chain import BaseResult
    from runner.execution.display import OpenDisplay
    from runner.execution.execute import Execution
    from runner.plan.keys import Surroundings
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage
    from runner.store.store import Store

GIVEN = {
    "export": ("fetch", "fetch_reward", "prepare", "train", "constants", "imatrix"),
    "train": (),
}
# Not derived again at a level: `export` asks only about what is deployed.
LEFT_OUT = {"export": ("fetch_tasks", "evaluate", "harness"), "train": ()}


@dataclass(frozen=True)
class Rederived:
    """`stages` came out again; `difference` is the first that did not give the same bytes."""

    stages: tuple[str, ...]
    difference: Difference | None
    notes: tuple[str, ...]  # what is not as it was when the run was made


def rederive(
    run: Run,
    level: str,
    store: Store,
    cache: Path,
    *,
    open_display: OpenDisplay,
) -> Rederived:
    """Derive the run's outputs again at `level` and compare them with its manifest.

    `open_display(events, stages)` shows the work. Raises MachineCannot (E703) when this machine
    cannot give the same bytes, StageFailed when a stage fails.
    """
    recipe = run.recipe()
    stages = _stages(run, recipe, level)
    given = _given(run, level, store)
    todo = [stage for stage in stages if stage.NAME not in given]
    surroundings = read_surroundings(recipe, stages)
    notes = _what_changed(run, recipe, todo, surroundings)
    with clean_place(cache) as place:
        base = _base_again(run, recipe, todo, place, cache, open_display)
        execution = _execution(recipe, todo, surroundings, given, place, cache)
        execution.base = base
        with open_display(execution.run.events, [stage.NAME for stage in todo]) as display:
            execution.on_poll, execution.say = display.on_poll, display.say
            execution.execute()
        again = open_derived(execution.run.path)
        names = tuple(stage.NAME for stage in todo)
        found = first_difference(run, again, names, store, execution.store)
    return Rederived(names, found, tuple(notes))


def _stages(run: Run, recipe: Recipe, level: str) -> list[Stage]:
    """The run's stages whose outputs can be compared, without those the level leaves out."""
    from runner.stages import stages_of

    return [
        stage
        for stage in stages_of(recipe)
        if stage.NAME in run.stages
        and stage.NAME not in LEFT_OUT[level]
        and any(cls is not Class.MEASURED for cls in stage.OUTPUTS.values())
    ]


def _given(run: Run, level: str, store: Store) -> dict[str, Outputs]:
    """What the level takes from the run. A base model that is gone is fetched again."""
    found = {}
    for name in (name for name in GIVEN[level] if name in run.stages):
        outputs = run.outputs(name, store)
        if outputs is not None:
            found[name] = outputs
        elif name not in ("fetch", "fetch_reward"):
            raise MachineCannot(
                f"the run's {name} outputs are neither in the store nor in {run.folder}",
                hint="use --level train, which derives them again",
                code="E703",
            )
    return found


def _what_changed(
    run: Run, recipe: Recipe, todo: list[Stage], surroundings: Surroundings
) -> list[str]:
    """What differs from when the run was made. Raises MachineCannot where bytes must differ."""
    names = {stage.NAME for stage in todo}
    if _needs_others(recipe, names):
        names.add("train")  # of the recipe that it starts from
    before, now = run.record["platform"], dict(surroundings.platform)
    if before != now and names & {"train", "evaluate", "constants", "imatrix"}:
        raise MachineCannot(
            f"the run was trained on {before.get('name')}, and this is {now.get('name')}: equal "
            "bytes of a training are claimed on one platform only",
            hint="verify --level export here, or --level train on that platform",
            code="E703",
        )
    for stage in todo:
        recorded = dict(run.stage(stage.NAME)["material"].get("files", {}))
        if changed := list_changes(recorded, file_digests(stage, recipe)):
            raise MachineCannot(
                f"a file that {stage.NAME} reads is not what it was in the run: {changed[0]}",
                hint="restore it (its sha256 is in the run's run.json), or use --level export",
                code="E703",
            )
    notes = [f"another platform: {before.get('name')}, now {now.get('name')}"] * (before != now)
    for kind, known in (("environment", surroundings.environments), ("tool", surroundings.tools)):
        recorded = run.record[f"{kind}s"]
        notes += [f"another {kind}: {name}" for name in _unequal(recorded, known, shared=True)]
    for stage in todo:
        old = run.stage(stage.NAME)["material"]["version"]
        if old != stage.VERSION:
            notes.append(f"another version of the stage {stage.NAME}: {old}, now {stage.VERSION}")
    return notes


def _needs_others(recipe: Recipe, todo: set[str]) -> bool:
    """Is a stage to run that is handed what another recipe gave?"""
    from_base = "fetch" in todo and starts_from_recipe(recipe)
    return from_base or ("fetch_reward" in todo and scored_by_recipe(recipe))


def _unequal(before: Any, now: Any, *, shared: bool = False) -> list[str]:
    names = {*before} & {*now} if shared else {*before} | {*now}
    return sorted(name for name in names if before.get(name) != now.get(name))


def _base_again(
    run: Run,
    recipe: Recipe,
    todo: list[Stage],
    place: Path,
    cache: Path,
    open_display: OpenDisplay,
) -> BaseResult | None:
    """What the recipe starts from, derived again too, unless `fetch` is given."""
    from runner.execution.chain import ensure_base, runner_of
    from runner.plan.chain import needed_of_base
    from runner.store.store import Store

    if not _needs_others(recipe, {stage.NAME for stage in todo}):
        return None
    _require_inputs_of_bases(run)
    store = Store(place / "store")

    def runs(base: Recipe) -> Path:
        return place / "runs-of-bases" / base.name

    run_base = runner_of(store, cache, runs=runs, open_display=open_display)
    return ensure_base(recipe, store, run_base, stages_of=needed_of_base, runs=runs)


def _require_inputs_of_bases(run: Run) -> None:
    """Raises MachineCannot (E703) where a file of the chain is not what it was in the run."""
    from runner.lock.file import read_lock
    from runner.lock.of_run import FILE
    from runner.recipe.paths import is_readable_file
    from runner.store.known_digests import known_sha256

    lock = run.folder / FILE
    pinned = read_lock(lock)["files"] if lock.is_file() else {}  # a shrunken run has no lock
    for name, digest in pinned.items():
        file = run.folder / name
        if not is_readable_file(file) or known_sha256(file) != digest:
            raise MachineCannot(
                f"{file.resolve()}, which the run started from, is not what it was then",
                hint=f"restore it (its sha256 is {digest}), or use --level export",
                code="E703",
            )


def _execution(
    recipe: Recipe,
    todo: list[Stage],
    surroundings: Surroundings,
    given: dict[str, Outputs],
    place: Path,
    cache: Path,
) -> Execution:
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.store.store import Store

    return Execution(
        recipe=recipe,
        stages=todo,
        surroundings=surroundings,
        store=Store(place / "store"),
        run=RunFolder(place / "runs"),
        cache=cache,
        given=given,
        ollama_models=place / "ollama-models",
    )
