"""Train a recipe in one way, by the normal executor, and read what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage
    from runner.store.store import Store
    from runner.verify.run import Run


@dataclass(frozen=True)
class Way:
    """How a recipe is trained. `module`: what stands in the place of the stage `train`."""

    name: str
    title: str
    backend: str
    module: str
    defaults: str  # whose own defaults it has: see own_defaults.py


# The order is that of the report; the first one asked for is what the others are compared with.
WAYS = {
    way.name: way
    for way in (
        Way("native", "TRL script", "native", "runner.stages.train", "trl"),
        Way(
            "llamafactory",
            "LLaMA Factory, in a script",
            "llamafactory",
            "runner.stages.train",
            "llamafactory",
        ),
        Way(
            "cli",
            "llamafactory-cli train",
            "llamafactory",
            "runner.crosscheck.by_cli",
            "llamafactory",
        ),
        Way(
            "webui",
            "LLaMA Board in a browser",
            "llamafactory",
            "runner.crosscheck.by_webui",
            "board",
        ),
    )
}


@dataclass(frozen=True)
class Trained:
    """A finished training. `trace`: step, loss, grad_norm, learning_rate of every step."""

    way: Way
    run: Run
    trace: Sequence[Mapping[str, Any]]
    measures: Mapping[str, Any]
    seconds: float  # of the stage that trained, start-up included, whenever that was
    reused: bool  # it lay in the store

    @property
    def weights(self) -> dict[str, str]:
        """Path of every file of trained weights -> sha256."""
        return {
            path: str(facts["sha256"])
            for path, facts in self.run.manifest["train"].items()
            if path.endswith(".safetensors")
        }

    @property
    def tokens_file(self) -> Path:
        """The tokens that `prepare` made for it."""
        return self.run.folder / "prepared" / "train.tokens.safetensors"

    def loss_decimals(self) -> int | None:
        """With how many decimals its losses are written down; None: all of them."""
        found = self.measures.get("loss_decimals")
        return None if found is None else int(found)

    def training_seconds(self) -> float | None:
        """Seconds of the steps that the last process trained."""
        if (whole := self.measures.get("training_seconds")) is not None:
            return float(whole)
        step = self.measures.get("seconds_per_step")
        return None if step is None else float(step) * int(self.measures["steps_trained_now"])


def stages_of_way(recipe: Recipe, way: Way) -> list[Stage]:
    """The stages up to `train`, the last one done in this way."""
    import importlib

    from runner.stages import stages_of

    *before, _ = stages_of(recipe, "train")
    return [*before, cast("Stage", importlib.import_module(way.module))]


def train(recipe: Recipe, way: Way, place: Path, say: Callable[[str], None]) -> Trained:
    """Train `recipe`, whose backend is the way's, with a run's folder below `place`.

    Raises what a run raises.
    """
    from runner.execution.chain import ensure_base, runner_of
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.plan.snapshot import read_surroundings
    from runner.report.progress import Progress
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder
    from runner.verify.run import open_run

    stages = stages_of_way(recipe, way)
    store = Store(store_folder())
    base = ensure_base(recipe, store, runner_of(store, cache_folder()))
    run = RunFolder(place)
    say(f"{way.name}: {way.title}")
    with Progress(run.events, [stage.NAME for stage in stages], sys.stderr) as progress:
        execution = Execution(
            recipe=recipe,
            stages=stages,
            surroundings=read_surroundings(recipe, stages),
            store=store,
            run=run,
            cache=cache_folder(),
            on_poll=progress.poll,
            say=progress.say,
            until="train",
            base=base,
        )
        results = execution.execute()
    return _read(way, open_run(run.path), store, reused=results[-1].action == "reuse")


def _read(way: Way, run: Run, store: Store, *, reused: bool) -> Trained:
    from runner.store.record import read_record

    stage = run.stage("train")
    text = (run.folder / "trace.jsonl").read_text(encoding="utf-8")
    return Trained(
        way=way,
        run=run,
        trace=[json.loads(line) for line in text.splitlines()],
        measures=dict(stage["measures"]),
        seconds=read_record(store.folder("train", str(stage["key"]))).seconds,
        reused=reused,
    )
