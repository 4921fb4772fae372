"""A job as two machines would do it together, each with a part of the model (decision 0021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.recipe import in_parts

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.recipe.model import Recipe

NODES = 2


@dataclass(frozen=True, slots=True)
class Joined:
    """What one of the machines has to do. `words`: what the recipe must say for it; `step`: what it
    may say so that a step takes as many rows as before."""

    job: Job
    words: tuple[str, ...]
    step: tuple[str, ...]


def can_be_parted(recipe: Recipe) -> bool:
    """May two machines train it, as it is or with another optimizer?"""
    together = replace(recipe, train=replace(recipe.train, nodes=NODES))
    return all(place == in_parts.OPTIMIZER for place, *_ in in_parts.obstacles(together))


def on_two_machines(job: Job) -> Joined | None:
    """The share of one of them; None where it may not be parted, or is on several already."""
    if not job.parted or job.processes != job.here:
        return None
    words: tuple[str, ...] = (f"train.nodes: {NODES}",)
    if job.optim not in in_parts.OPTIMIZERS:
        words = (*words, "train.optim: adamw_torch")
        job = replace(job, optim="adamw_torch")
    job = replace(job, processes=NODES * job.processes)
    rows = job.batch // job.sides
    if job.accumulation % NODES == 0:
        job = replace(job, accumulation=job.accumulation // NODES)
        return Joined(job, words, (f"train.gradient_accumulation_steps: {job.accumulation}",))
    if rows % NODES == 0:
        job = replace(job, batch=job.batch // NODES)
        return Joined(job, words, (f"train.per_device_train_batch_size: {rows // NODES}",))
    return Joined(job, words, ())
