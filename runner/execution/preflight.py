"""Before a large load: is there memory for it at this moment?

A refusal costs a second. Where GPU and processor share the memory, running out of it costs the
whole machine, which may stand still until it is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import MachineCannot
from runner.execution.lacks import gb
from runner.recipe.typed import typed
from runner.system import hardware, memory_limit
from runner.system.hardware import ROOT

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage

LARGE = 8_000_000_000  # bytes from which a load is looked at
LOADING = ("train", "evaluate", "harness", "constants", "fidelity")
DROP_CACHES = "sync && echo 3 | sudo tee /proc/sys/vm/drop_caches"  # for people; never run by us


def require_memory(
    stage: Stage, recipe: Recipe, say: Callable[[str], None], root: Path = ROOT
) -> int:
    """Make room for the model that `stage` loads; the bytes it may use, 0 for no limit of ours.

    A GPU with memory of its own is not looked at, nor a model whose shapes are unknown. Raises
    MachineCannot (E940) when there is no memory for it, UsageError (E962).
    """
    gpus = hardware.gpus(root)
    unified = any(hardware.shares_memory(gpu.name) for gpu in gpus)
    wished = memory_limit.asked()
    if stage.NAME not in LOADING or (gpus and not unified):
        return wished
    needed = _load_of(stage.NAME, recipe, "cuda" if gpus else "cpu")
    if needed < LARGE:
        return wished
    if unified and needed > hardware.meminfo(root)["MemFree"]:
        _drop_caches(root, say)
    have = hardware.memory(root).available
    if needed > have:
        raise MachineCannot(
            f"{stage.NAME} loads about {gb(needed)}, and {gb(have)} of memory can be had now",
            hint="end what holds memory (`recipe doctor` names it) and run the same command again; "
            "or try it all the same: --no-preflight",
            code="E940",
        )
    return wished or memory_limit.for_large_load(root)


def too_large(recipe: Recipe, root: Path = ROOT) -> MachineCannot | None:
    """The error (E940) where the model that is trained is larger than all memory of this machine.

    None where it may fit, and where `require_memory` would not look.
    """
    gpus = hardware.gpus(root)
    if gpus and not any(hardware.shares_memory(gpu.name) for gpu in gpus):
        return None
    needed = _load_of("train", recipe, "cuda" if gpus else "cpu")
    have = hardware.memory(root).total
    if needed < LARGE or needed <= have:
        return None
    named = typed(recipe)
    return MachineCannot(
        f"{recipe.name}: train loads about {gb(needed)}, and this machine has {gb(have)} of memory",
        hint=f"recipe plan {named} --hardware all says where it fits; or try the chain on a small "
        f"twin: recipe run {named} --shrink",
        code="E940",
    )


def _load_of(stage: str, recipe: Recipe, device: str) -> int:
    """Bytes at the peak of the load; 0 when they are not known. What is trained by several
    processes is evaluated by one."""
    from runner.plan.cost import known_shapes
    from runner.plan.job import Job
    from runner.plan.memory import loading_memory
    from runner.plan.published_models import facts_at_hand

    shapes, _ = known_shapes(recipe, facts_at_hand(recipe))
    job = Job.of(recipe)
    if stage != "train":
        job = replace(job, processes=1, here=1)
    return 0 if shapes is None else loading_memory(shapes, job, device).total


def _drop_caches(root: Path, say: Callable[[str], None]) -> None:
    """CUDA counts only free memory there. Where we may not drop the cache, say how to."""
    cached = gb(hardware.meminfo(root).get("Cached", 0))
    switch = root / "proc/sys/vm/drop_caches"
    if not os.access(switch, os.W_OK):
        say(f"{cached} of files lie in memory, which the GPU may need: {DROP_CACHES}")
        return
    os.sync()  # what is not written yet cannot be dropped
    switch.write_text("3\n")
    say(f"dropped the page cache ({cached}), so that the GPU can have it")
