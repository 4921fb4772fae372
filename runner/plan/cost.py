"""What a run would take: memory at its peak, disk by stage, time by stage. Reads only.

Sizes follow from the model's config by arithmetic; where it is not at hand, nothing is guessed.
Times are those of an earlier run on the same platform; without one, a training's is its
arithmetic, over what plan/tokens.py counts, at an assumed speed, which is said. All of it is an
estimate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.plan.evaluating import evaluation_memory, harness_memory
from runner.plan.four_bits import (
    constants_memory,
    fidelity_memory,
    predictions_bytes,
    scales_bytes,
)
from runner.plan.job import DTYPE_BYTES, FLOAT32, Job, Memory
from runner.plan.memory import training_memory
from runner.plan.optimizers import state_bytes
from runner.plan.patterns import end_in_time
from runner.plan.plan import Action, Step
from runner.plan.shapes import Shapes, UnknownShapesError, shapes_of
from runner.plan.tokens import training_steps, training_tokens
from runner.plan.trained import trained_parameters, trained_tensors
from runner.recipe.methods import METHODS
from runner.recipe.typed import how_to_get_sizes

if TYPE_CHECKING:
    from runner.recipe.model import Adapter, Recipe
    from runner.recipe.model_facts import Facts

# Assumed FLOP/s of a processor core, for a first guess: 200 tokens/s of a 135M LoRA in float32 on
# two cores, measured. What is assumed of a GPU stands in data/machines.
CORE_FLOPS = 50e9
MAX_RUNS = 50  # of the recipe that are looked at for times


@dataclass(frozen=True, slots=True)
class Machine:
    """What costs depend on. `gpu`: its name, or "". `platform`: the name in run.json.

    `memory`: bytes that this process may use at most, a GPU's own where it has such; `free`: on the
    store's disk. 0: not read.
    `rate`: assumed FLOP/s of its GPU; 0: nothing is known of it.
    """

    cores: int
    gpu: str
    platform: str
    memory: int = 0
    free: int = 0
    rate: float = 0.0

    @property
    def device(self) -> str:
        """cpu or cuda."""
        return "cuda" if self.gpu else "cpu"

    @property
    def flops(self) -> float | None:
        """Assumed FLOP/s; None for a GPU that nothing is known of."""
        return (self.rate or None) if self.gpu else self.cores * CORE_FLOPS


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a stage leaves in the store, and beside that while it runs; `models`: in Ollama's
    own folder."""

    stage: str
    stored: int
    temporary: int = 0
    models: int = 0


@dataclass(frozen=True, slots=True)
class Time:
    """`seconds` None: nobody knows. `source` says where the number comes from.

    `most`: it takes no more than that, for want of an estimate.
    """

    stage: str
    seconds: float | None
    source: str
    most: bool = False

    @property
    def about(self) -> str:
        """What to say before the number."""
        return "at most" if self.most else "about"


@dataclass(frozen=True, slots=True)
class Cost:
    """`unknown` says why there is no memory and no disk. `where`: the facts' origin.

    `steps`: of the training, None where it does not run or they cannot be counted; then
    `no_steps` says why.
    """

    machine: Machine
    unknown: str
    where: str
    parameters: int
    trained: int
    memory: Mapping[str, Memory]  # by stage
    disk: tuple[Disk, ...]
    time: tuple[Time, ...]
    steps: int | None = None
    backend: str = ""
    no_steps: str = ""

    @property
    def peak(self) -> int:
        """Bytes of memory at the peak of the whole run; 0 when it is not known."""
        return max((memory.total for memory in self.memory.values()), default=0)

    @property
    def stored(self) -> int:
        """Bytes that must be free where the store lies."""
        temporary = max((disk.temporary for disk in self.disk), default=0)
        return sum(disk.stored for disk in self.disk) + temporary

    @property
    def models(self) -> int:
        """Bytes that must be free where Ollama's models lie."""
        return sum(disk.models for disk in self.disk)


def cost_of(
    recipe: Recipe, steps: list[Step], facts: Facts | None, runs: Path, machine: Machine
) -> Cost:
    """What the stages of `steps` that would run take. `runs`: the folder of the recipe's runs."""
    waiting = [step.stage for step in steps if step.action is not Action.REUSE]
    shapes, unknown = known_shapes(recipe, facts)
    time = tuple(_times(recipe, waiting, shapes, runs, machine))
    steps_known, no_steps = _steps(recipe) if "train" in waiting else (None, "")
    backend = recipe.train.backend
    if shapes is None:
        return Cost(machine, unknown, "", 0, 0, {}, (), time, steps_known, backend, no_steps)
    job = Job.of(recipe)
    estimates: Mapping[str, Callable[[Shapes, Job, str], Memory]] = {
        "train": training_memory,
        "evaluate": evaluation_memory,
        "harness": harness_memory,
        "constants": constants_memory,
        "fidelity": partial(fidelity_memory, have=machine.memory),
    }
    return Cost(
        machine=machine,
        unknown="",
        where=facts.where if facts else "",
        parameters=shapes.parameters,
        trained=trained_parameters(shapes, recipe.train.adapter),
        memory={
            stage: estimate(shapes, job, machine.device)
            for stage, estimate in estimates.items()
            if stage in waiting
        },
        disk=tuple(disk for stage in waiting if (disk := _disk(stage, recipe, shapes))),
        time=time,
        steps=steps_known,
        backend=backend,
        no_steps=no_steps,
    )


def _steps(recipe: Recipe) -> tuple[int | None, str]:
    """Steps of the training, or why they are not known before its rows are prepared."""
    if recipe.data.packing and recipe.train.max_steps is None:
        return None, "how many rows share a pack is known when they are prepared"
    if (steps := training_steps(recipe)) is not None:
        return steps, ""
    return None, "the rows are on the hub, or too many to be counted here"


def cost_here(recipe: Recipe, steps: list[Step], runs: Path) -> Cost:
    """What they take on this machine, by the model's facts or else its published sizes."""
    from runner.plan.published_models import facts_at_hand

    facts = facts_at_hand(recipe)
    return cost_of(recipe, steps, facts, runs, this_machine())


def this_machine() -> Machine:
    """Read from the kernel; the rate of its GPU from data/machines."""
    from runner.plan.machines import memory_of, rate_of
    from runner.system import hardware, platforms
    from runner.system.folders import store_folder

    gpus = hardware.gpus()
    gpu = gpus[0].name if gpus else ""
    own = bool(gpu) and not hardware.shares_memory(gpu)
    return Machine(
        cores=hardware.available_cpus(),
        gpu=gpu,
        platform=str(platforms.current_platform()["name"]),
        memory=memory_of(gpu) if own else hardware.memory().total,
        free=hardware.disk_free(store_folder()),
        rate=rate_of(gpu),
    )


def known_shapes(recipe: Recipe, facts: Facts | None) -> tuple[Shapes | None, str]:
    """The shapes of the recipe's model; None and the reason where they cannot be told."""
    if recipe.shrink is not None:
        return None, "a shrunken twin is small whatever the model"
    if facts is None:
        how = how_to_get_sizes(recipe)
        return None, f"not checked: the model's facts are not at hand; {how}"
    try:
        shapes = shapes_of(facts.config)
    except UnknownShapesError as error:
        return None, f"not estimated: {error}"
    if not end_in_time(recipe.train.adapter, (weight.module for weight in shapes.weights)):
        return None, "not estimated: a regular expression of train.adapter takes too long to try"
    return shapes, ""


# --- disk


def _disk(stage: str, recipe: Recipe, shapes: Shapes) -> Disk | None:
    """None for a stage that writes next to nothing."""
    count = _DISK.get(stage)
    return None if count is None else count(recipe, shapes)


def _fetched(recipe: Recipe, shapes: Shapes) -> Disk:
    """The weights in the recipe's dtype; beside them what is downloaded, until it is read."""
    size = shapes.parameters * DTYPE_BYTES[recipe.model.dtype]
    is_here = recipe.model.path is not None or recipe.base is not None
    return Disk("fetch", size, 0 if is_here else size)


def _prepared(recipe: Recipe, shapes: Shapes) -> Disk:
    """Token ids and masks of the local rows, and a text: about three times the rows. Beside them
    rows, ids and masks wait in files (data/chunks/spool.py): about five times."""
    files = [recipe.resolve(file.path) for _, file in recipe.data_files() if file.path is not None]
    size = sum(path.stat().st_size for path in files if path.is_file())
    return Disk("prepare", 3 * size, 5 * size)


def _trained(recipe: Recipe, shapes: Shapes) -> Disk:
    """What learned, in float32; checkpoints with the optimizer's state, one more than are kept.

    Those of PPO hold the value model, too, which learns as the policy does.
    """
    trained = trained_parameters(shapes, recipe.train.adapter)
    written = shapes.parameters if recipe.train.adapter.type == "none" else trained
    tensors = trained_tensors(shapes, recipe.train.adapter)
    each = FLOAT32 * written + state_bytes(recipe.train.optim, tensors)
    count = (recipe.train.save_total_limit + 1) * (2 if recipe.train.method == "ppo" else 1)
    return Disk("train", FLOAT32 * written, count * each)


def _merged(recipe: Recipe, shapes: Shapes) -> Disk:
    assert recipe.merge is not None
    return Disk("merge", shapes.parameters * DTYPE_BYTES[recipe.merge.dtype])


def _rebuilt(recipe: Recipe, shapes: Shapes) -> Disk:
    return Disk("constants", scales_bytes(shapes))


def _compared(recipe: Recipe, shapes: Shapes) -> Disk:
    return Disk("fidelity", 0, predictions_bytes(shapes))


def _converted(recipe: Recipe, shapes: Shapes) -> int:
    from runner.stages.deployment.deployed import dtype_of

    return shapes.parameters * DTYPE_BYTES[dtype_of(recipe)]


def _measured_matrix(recipe: Recipe, shapes: Shapes) -> Disk:
    return Disk("imatrix", 0, _converted(recipe, shapes))


def _quantised(recipe: Recipe, shapes: Shapes) -> Disk:
    """Every file; the converted weights and the kept logits beside them, as stages/gguf.py asks."""
    from runner.stages.export.perplexity import MAX_TOKENS, logits_size

    assert recipe.gguf is not None
    source = _converted(recipe, shapes)
    logits = min(source, logits_size(MAX_TOKENS, 1, shapes.vocabulary))
    files = sum(_file_size(kind, shapes) for kind in recipe.gguf.quantize)
    return Disk("gguf", files, source + logits)


def _file_size(kind: str, shapes: Shapes) -> int:
    """A tenth is added for tensors with more bits than most."""
    from runner.stages.export.gguf_types import KINDS

    return math.ceil(shapes.parameters * KINDS[kind].bits / 8 * 1.1)


def _deployed(recipe: Recipe, shapes: Shapes) -> Disk:
    assert recipe.ollama is not None
    return Disk("ollama", 0, models=_file_size(recipe.ollama.quantize, shapes))


_DISK = {
    "fetch": _fetched,
    "prepare": _prepared,
    "train": _trained,
    "constants": _rebuilt,
    "merge": _merged,
    "fidelity": _compared,
    "imatrix": _measured_matrix,
    "gguf": _quantised,
    "ollama": _deployed,
}


# --- time


def _times(
    recipe: Recipe, waiting: Iterable[str], shapes: Shapes | None, runs: Path, machine: Machine
) -> list[Time]:
    before = _times_of_runs(runs, machine.platform)
    return [
        before[stage] if stage in before else _first_time(stage, recipe, shapes, machine)
        for stage in waiting
    ]


def _times_of_runs(runs: Path, platform: str) -> dict[str, Time]:
    """Stage -> what it took in the newest run here that ran it, whatever the recipe said then."""
    found: dict[str, Time] = {}
    names = sorted((path.parent.name for path in runs.glob("*/run.json")), reverse=True)
    for name in [name for name in names if name != "latest"][:MAX_RUNS]:
        for stage, seconds in _stages_of_run(runs / name / "run.json", platform):
            found.setdefault(stage, Time(stage, seconds, f"as in run {name}, on this platform"))
    return found


def _stages_of_run(path: Path, platform: str) -> list[tuple[str, float]]:
    try:
        record = json.loads(path.read_bytes())
        if record["platform"]["name"] != platform:
            return []
        return [
            (str(stage["name"]), float(stage["seconds"]))
            for stage in record["stages"]
            if stage["action"] == Action.RUN.value
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _first_time(stage: str, recipe: Recipe, shapes: Shapes | None, machine: Machine) -> Time:
    if stage != "train":
        return Time(stage, None, "unknown: no earlier run on this platform")
    tokens = None if shapes is None else training_tokens(recipe)
    if shapes is None or machine.flops is None or tokens is None:
        why = (
            "the model's facts" if shapes is None else "the rows" if tokens is None else "this GPU"
        )
        return Time(stage, None, f"unknown: no earlier run on this platform, and not known: {why}")
    work = training_flop(recipe, shapes, tokens.count)
    flops = machine.flops * _computers(recipe, machine)
    source = f"{tokens.source}: {work:.1e} FLOP at an assumed {flops:.0e} FLOP/s"
    return Time(stage, work / flops, source, tokens.most)


def _computers(recipe: Recipe, machine: Machine) -> int:
    """How many of such processors or GPUs train together; the link between them is not counted."""
    return recipe.train.all_processes if machine.gpu else recipe.train.nodes


def training_flop(recipe: Recipe, shapes: Shapes, tokens: float) -> float:
    """Two for each weight and token on the way there, and again where it is computed twice.

    On the way back two for the gradient of what flows, and two for that of a weight that learns.
    Answers that are learnt from are drawn, and read by the reference, before that.
    """
    train = recipe.train
    passes = 2 + train.gradient_checkpointing + 2 * METHODS[train.method].generates
    return tokens * flop_per_token(recipe, shapes, passes)


def flop_per_token(recipe: Recipe, shapes: Shapes, passes: int) -> float:
    """Of products with weights; those of attention come on top, and grow with the row's length."""
    return flop_per_trained_token(shapes, recipe.train.adapter, passes)


def flop_per_trained_token(shapes: Shapes, adapter: Adapter, passes: int) -> float:
    """The same, of what of a recipe decides it."""
    multiplied = shapes.parameters - (0 if _is_tied(shapes) else shapes.vocabulary * shapes.hidden)
    return 2.0 * (passes * multiplied + trained_parameters(shapes, adapter))


def _is_tied(shapes: Shapes) -> bool:
    return any(weight.tied for weight in shapes.weights)


# --- for machines


def as_data(cost: Cost) -> dict[str, Any]:
    """Plain JSON data, bytes and seconds."""
    return {
        "unknown": cost.unknown or None,
        "facts_from": cost.where or None,
        "steps": cost.steps,
        "backend": cost.backend or None,
        "parameters": cost.parameters or None,
        "trained_parameters": cost.trained or None,
        "memory": {
            "peak": cost.peak or None,
            "machine": cost.machine.memory or None,
            "stages": {
                stage: {
                    "total": memory.total,
                    "items": [{"name": item.name, "bytes": item.bytes} for item in memory.items],
                }
                for stage, memory in cost.memory.items()
            },
        },
        "disk": {
            "store": cost.stored or None,
            "store_free": cost.machine.free or None,
            "ollama_models": cost.models or None,
            "stages": [
                {
                    "stage": disk.stage,
                    "stored": disk.stored,
                    "temporary": disk.temporary,
                    "ollama_models": disk.models,
                }
                for disk in cost.disk
            ],
        },
        "time": [
            {
                "stage": time.stage,
                "seconds": time.seconds,
                "at_most": time.most,
                "source": time.source,
            }
            for time in cost.time
        ],
    }
