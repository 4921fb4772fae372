"""Train a few steps of a recipe as a run would, measure them, and throw the result away.

What comes before (model, tokens) is made by the normal executor and kept in the store, as long as
`recipe gc` leaves it there; the recipe's runs, and which of them is the newest, stay as they are.
The training itself happens in a temporary folder beside the cache's locks, under the lock of the
device, and nothing of it is published.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.bench.energy import meter_of
from runner.bench.figures import Figures, Roofline, Step, figures_of, steps_of
from runner.errors import StageFailed

if TYPE_CHECKING:
    from runner.plan.machines import Hardware
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs

# Generous for a core: 6 GHz, two units of 16 float32 numbers, a product and a sum each. What
# multiplies bfloat16 tiles (AMX) does 16 times that.
CORE_CEILING, TILES = 6e9 * 64, 16


@dataclasses.dataclass(frozen=True)
class Bench:
    """What came out. `joules` of the measured steps by the meter `energy`; None: not readable."""

    recipe: str
    device: str
    figures: Figures
    roofline: Roofline
    joules: float | None
    energy: str
    peak_memory: int | None

    @property
    def joules_per_token(self) -> float | None:
        """Of a token without padding."""
        return None if self.joules is None else self.joules / self.figures.tokens["non_pad"]


def bench(recipe: Recipe, steps: int, warm_up: int, known: Hardware | None = None) -> Bench:
    """Measure `steps` steps behind `warm_up` others. Raises what a run raises, and E933, E934.

    `known`: what the GPU can do at most, where it is no machine of data/machines.
    """
    from runner.system import hardware

    short = of_steps(recipe, steps + warm_up)
    before = _prepared(short)
    gpus = hardware.gpus()
    meter = meter_of(bool(gpus))
    events, measures = _trained(short, before, meter)
    found = steps_of(events)
    if len(found) <= warm_up:
        raise StageFailed(
            f"the training told of {len(found)} steps, and {warm_up} are left out as warm-up",
            hint="lower --warm-up, or look at the log",
            code="E934",
            stage="train",
        )
    roofline = roofline_of(recipe, gpus[0].name if gpus else "", known)
    return Bench(
        recipe=recipe.name,
        device=gpus[0].name if gpus else f"{hardware.available_cpus()} cores",
        figures=figures_of(found, warm_up, roofline),
        roofline=roofline,
        joules=None if meter is None else meter.joules(*_span(found, warm_up)),
        energy="" if meter is None else meter.what,
        peak_memory=measures.get("peak_memory"),
    )


def of_steps(recipe: Recipe, steps: int) -> Recipe:
    """`recipe`, trained so many steps, whatever its data: without a checkpoint in between."""
    train = dataclasses.replace(
        recipe.train, max_steps=steps, num_train_epochs=None, save_steps=steps + 1
    )
    return dataclasses.replace(recipe, train=train)


def roofline_of(recipe: Recipe, gpu: str, known: Hardware | None = None) -> Roofline:
    """What a token needs at least, and what the device can do at most."""
    from runner.plan.cost import flop_per_token, known_shapes
    from runner.plan.machines import peak_of
    from runner.plan.published_models import facts_at_hand
    from runner.system import hardware

    shapes, _ = known_shapes(recipe, facts_at_hand(recipe))
    # Layers below the first one that learns get no gradient: of those the way there alone counts.
    passes = 1 if recipe.train.adapter.trainable_layers is not None else 2
    need = None if shapes is None else flop_per_token(recipe, shapes, passes)
    if gpu:
        peak, title = (known.peak_flops, known.title) if known else peak_of(gpu)
        count = recipe.train.all_processes  # one GPU each, and the tokens are those of all
        return Roofline(count * peak, title if count == 1 else f"{count} of {title}", need)
    cores = hardware.available_cpus()
    tiles = TILES if "amx_bf16" in hardware.instruction_sets() else 1
    return Roofline(cores * CORE_CEILING * tiles, f"{cores} cores of any processor", need)


def _span(steps: list[Step], warm_up: int) -> tuple[float, float]:
    begin = steps[warm_up - 1].ended if warm_up else steps[0].ended - steps[0].seconds
    return begin, steps[-1].ended


def _prepared(recipe: Recipe) -> Mapping[str, Outputs]:
    """The outputs of what comes before the training: from the store, or made now."""
    from runner.execution.chain import ensure_base, own_runs, runner_of
    from runner.plan.plan import Action, make_plan
    from runner.plan.snapshot import take_snapshot
    from runner.stages import stages_of
    from runner.store.clean_place import passing_runs
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder

    store = Store(store_folder())
    cache = cache_folder()
    base = ensure_base(recipe, store, runner_of(store, cache))
    stages = stages_of(recipe, "prepare")
    given = {} if base is None else base.given()
    snapshot = take_snapshot(recipe, stages, store, own_runs(recipe), given)
    steps = make_plan(recipe, stages, snapshot)
    if all(step.action is Action.REUSE for step in steps):
        return {step.stage: step.outputs for step in steps if step.outputs is not None}
    # What is measured is no run: it lies in no folder that others would take for the newest one.
    with passing_runs(cache, store) as place:
        run = runner_of(store, cache, runs=lambda each: place / each.name)
        try:
            return {each.name: each.outputs for each in run(recipe, stages, snapshot, base)}
        except StageFailed as error:
            raise _with_its_log(error) from error


def _trained(
    recipe: Recipe, before: Mapping[str, Outputs], meter: Any
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The events of the training, and its measures."""
    from runner.execution.context import StageContext
    from runner.execution.events import EventLog
    from runner.report.progress import Progress
    from runner.stages import load_stage
    from runner.store.locks import Lock
    from runner.system import platforms
    from runner.system.folders import cache_folder

    stage = load_stage("train")
    cache = cache_folder()
    platform = platforms.current_platform()
    path = cache / "locks" / f"device-{platform['device']}.lock"
    with tempfile.TemporaryDirectory(prefix="recipe-bench-") as place:
        folders = [Path(place) / name for name in ("out", "scratch", "logs")]
        for folder in folders:
            folder.mkdir()
        out, scratch, logs = folders
        events = EventLog(Path(place) / "events.jsonl")
        with (
            Lock(path, f"the {platform['device']}", wait=True, on_wait=_say) as lock,
            Progress(events.path, ["train"], sys.stderr) as progress,
        ):
            context = StageContext(
                stage=stage,
                project_root=recipe.project_root,
                recipe_folder=recipe.folder,
                log_folder=logs,
                scratch=scratch,
                cache=cache,
                platform=platform,
                events=events,
                lock_fds=(lock.fd,),
                on_poll=_polling(progress.poll, meter),
                say=progress.say,
            )
            try:
                stage.run(recipe, before, out, context)
            except StageFailed as error:
                raise _with_its_log(error) from error
        found = events.since(0)
        events.close()
    return found, context.measures


def _polling(show: Any, meter: Any) -> Any:
    """What is done while the training works: show it, and read the meter."""

    def poll() -> None:
        show()
        if meter is not None:
            meter.sample(time.time())

    return poll


def _with_its_log(error: StageFailed) -> StageFailed:
    """The log lies in a folder that goes away: its end is shown instead."""
    if error.log and Path(error.log).is_file():
        text = Path(error.log).read_text(encoding="utf-8", errors="replace")
        print("\n".join(text.splitlines()[-20:]), file=sys.stderr)
    return StageFailed(error.message, hint=error.hint, code=error.code, stage=error.stage)


def _say(holder: Any) -> None:
    print(f"waiting for the device, held by {holder}", file=sys.stderr)
