"""What this machine lacks for a plan, and what to type next. Reads only; asks a loopback Ollama.

What `--offline` would miss is told by ready.py, whose lists are used here. A shortage of memory or
disk is an estimate's: `recipe plan` shows it, `recipe run` warns of it, neither refuses for it.
What cannot even be loaded is refused by preflight.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.backends import load_backend
from runner.errors import MachineCannot
from runner.execution import device, ready
from runner.plan.cost import Cost, Machine
from runner.plan.plan import Action, Step
from runner.recipe.typed import typed
from runner.stages import load_stage

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage

# What the hub gives only to those who accepted a licence, by how its names begin. Of Mistral that
# is what is under its research licence (7B, Mixtral and Nemo are under Apache's), of Gemma all that
# came before 4.
GATED = (
    "meta-llama/",
    *("google/gemma-2b", "google/gemma-7b", "google/gemma-1.1-", "google/gemma-2-"),
    *("google/gemma-3-", "google/gemma-3n-", "google/codegemma-", "google/medgemma-"),
    *("mistralai/Codestral-22B-", "mistralai/Ministral-8B-", "mistralai/Mistral-Large-"),
    *("mistralai/Mistral-Small-Instruct-2409", "mistralai/Pixtral-Large-"),
    "CohereLabs/",
)
LARGE = 1_000_000_000  # parameters from which a training without a GPU takes days
CODES = ("W250", "W251", "W252", "W253", "W254", "W255", "W267")


@dataclass(frozen=True, slots=True)
class Lack:
    """`what` is missing, and the `next` command. `mends_itself`: a run gets it, with a network."""

    code: str
    what: str
    next: str
    mends_itself: bool = False

    def __str__(self) -> str:
        return f"lacks[{self.code}]: {self.what} → {self.next}"


def lacks(recipe: Recipe, steps: list[Step], cost: Cost, cache: Path) -> list[Lack]:
    """Everything that is missing, on the machine of `cost`, for the stages that would run."""
    machine = cost.machine
    stages = [load_stage(step.stage) for step in steps if step.action is not Action.REUSE]
    return [
        *_device(recipe, steps, machine),
        *_gpu(recipe, stages, cost, machine),
        *_token(recipe, stages),
        *_memory(recipe, cost, machine),
        *_disk(recipe, stages, cost),
        *_ollama(recipe, stages, cache),
        *_unbuilt(recipe, stages, cache),
    ]


def _device(recipe: Recipe, steps: list[Step], machine: Machine) -> Iterator[Lack]:
    if not machine.gpu and device.lacks_device(recipe, steps):
        backend = recipe.train.backend
        yield Lack("W267", f"an NVIDIA GPU: backend {backend} trains on no other", device.INSTEAD)


def _gpu(recipe: Recipe, stages: list[Stage], cost: Cost, machine: Machine) -> Iterator[Lack]:
    if machine.gpu or recipe.shrink is not None or not any(stage.DEVICE for stage in stages):
        return
    if load_backend(recipe.train.backend).NEEDS_CUDA:  # W267 says it
        return
    small = 0 < cost.parameters < LARGE
    if small or (not cost.parameters and recipe.model.quantization is None):
        return
    why = "QLoRA of" if recipe.model.quantization else "a training of"
    size = f"{cost.parameters / 1e9:.1f} billion weights" if cost.parameters else "this model"
    yield Lack(
        "W250",
        f"a CUDA GPU: {why} {size} takes {_how_long(cost)} on a processor",
        f"try the chain on a small twin: recipe run {typed(recipe)} --shrink",
    )


def _how_long(cost: Cost) -> str:
    """As the estimate of the same plan says, where there is one."""
    from runner.report.plan_text import in_words

    for each in cost.time:
        if each.stage == "train" and each.seconds is not None:
            return f"{each.about} {in_words(each.seconds)}"
    return "days"


def _token(recipe: Recipe, stages: list[Stage]) -> Iterator[Lack]:
    from runner.errors import RecipeToolError
    from runner.execution.published_twin import needs_hub
    from runner.system.hub import find_token

    asked = list(ready.downloads(recipe, stages))
    gated = recipe.model.hub is not None and recipe.model.hub.startswith(GATED)
    if (
        not gated
        or not needs_hub(recipe)
        or not any(str(recipe.model.hub) in each for each in asked)
    ):
        return
    try:
        token = find_token()
    except RecipeToolError:
        token = None
    if token is None:
        yield Lack(
            "W251",
            f"a token: {recipe.model.hub} is given to those who accepted its licence",
            "accept it at the hub, then: export HF_TOKEN=… (docs/models.md)",
        )


def _memory(recipe: Recipe, cost: Cost, machine: Machine) -> Iterator[Lack]:
    from runner.system import hardware

    own = machine.gpu and not hardware.shares_memory(machine.gpu)
    have = machine.memory if own else hardware.memory().total
    if cost.peak <= have or not have:
        return
    stage = max(cost.memory, key=lambda name: cost.memory[name].total)
    whose = machine.gpu if own else "this machine"
    yield Lack(
        "W252",
        f"memory: {stage} takes about {gb(cost.peak)}, {whose} has {gb(have)}",
        _smaller(recipe, have, machine),
    )


def _smaller(recipe: Recipe, have: int, machine: Machine) -> str:
    """The fewest changes that make it fit `have` bytes, or that none does."""
    from runner.plan.cost import known_shapes
    from runner.plan.fit import fewest_changes, fewest_together, least_changes
    from runner.plan.job import Job
    from runner.plan.published_models import facts_at_hand
    from runner.report.fit_table import still

    elsewhere = f"recipe plan {typed(recipe)} --hardware all"
    larger = f"take a machine with more memory, or a smaller model: {elsewhere}"
    shapes, _ = known_shapes(recipe, facts_at_hand(recipe))
    if shapes is None:
        return larger
    job = Job.of(recipe)
    changes, left = fewest_changes(shapes, job, have, machine.device)
    if changes == ():  # only a measurement that loads a whole model where it can
        return f"set merge.fidelity: false: about {gb(left)} then"
    told = [f"set {' and '.join(changes)}: about {gb(left)} then"] if changes else []
    if together := fewest_together(shapes, job, changes, have, machine.device):
        words, each = together
        told.append(f"train on two machines, {' and '.join(words)}: about {gb(each)} on each")
    if told:
        return "; or ".join(told)
    return f"{still(*least_changes(shapes, job, machine.device))}: {larger}"


def _disk(recipe: Recipe, stages: list[Stage], cost: Cost) -> Iterator[Lack]:
    from runner.execution.run_folder import SHOWN_AS, runs_folder
    from runner.system import hardware, ollama
    from runner.system.folders import STORE, store_folder

    store, runs = store_folder(), runs_folder(recipe.project_root, recipe.name)
    places = [(store, cost.stored, f"set {STORE}")]
    if hardware.device_of(store) != hardware.device_of(runs):  # else they are linked
        copied = sum(disk.stored for disk in cost.disk if disk.stage in SHOWN_AS)
        places.append((runs, copied, "move the project"))
    if any(stage.NAME == "ollama" for stage in stages):
        places.append((ollama.models_folder(), cost.models, "set OLLAMA_MODELS"))
    for folder, needed, larger in places:
        free = hardware.disk_free(folder)
        if needed > free:
            yield Lack(
                "W253",
                f"disk: the run writes about {gb(needed)} to {folder}, where {gb(free)} are free",
                f"recipe gc --dry-run shows what can go; or {larger} to a larger disk",
            )


def _ollama(recipe: Recipe, stages: list[Stage], cache: Path) -> Iterator[Lack]:
    from runner.system import ollama, tools

    if not any("ollama" in stage.TOOLS for stage in stages):
        return
    try:
        url, named = ollama.server_url(), os.environ.get("OLLAMA_HOST", "").strip()
    except MachineCannot as error:
        yield Lack("W254", error.message, error.hint)
        return
    if named:
        if ollama.may_be_asked_while_planning(url) and not ollama.answers(url):
            yield Lack("W254", f"the Ollama at {url}, which OLLAMA_HOST names", "ollama serve")
    elif not (ollama.find_program() or tools.find_tool("ollama", cache) or ollama.answers(url)):
        yield Lack(
            "W254",
            "Ollama: none on PATH, none answers; a run builds the pinned one, once, in minutes",
            f"recipe run {typed(recipe)} --get",
            mends_itself=True,
        )


def _unbuilt(recipe: Recipe, stages: list[Stage], cache: Path) -> Iterator[Lack]:
    from runner.system import environments, tools

    roles = [role for role in ready.roles(recipe, stages) if not environments.find(role, cache)]
    names = [name for name in ready.tools_of(stages) if not tools.find_tool(name, cache)]
    names = [name for name in names if name != "ollama"]  # said above
    missing = [f"environment {role}" for role in roles] + [f"tool {name}" for name in names]
    if missing:
        yield Lack(
            "W255",
            f"{', '.join(missing)}; a run builds them, once, with a network",
            f"recipe run {typed(recipe)} --get",
            mends_itself=True,
        )


def gb(size: float) -> str:
    """Bytes in words.

    >>> gb(51_400_000_000), gb(3_200_000), gb(790_906_200_000_000)
    ('51.4 GB', '3 MB', '790.9 TB')
    """
    if size >= 1e13:  # below it a disk is thought of in gigabytes, as plans and machines are
        return f"{size / 1e12:.1f} TB"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
