"""What lies in memory in each phase of a run, by kind; arithmetic alone."""

from __future__ import annotations

from runner.plan.evaluating import evaluation_memory, harness_memory
from runner.plan.four_bits import constants_memory, fidelity_memory
from runner.plan.job import FLOAT32, Item, Job, Memory, memory_of
from runner.plan.memory import (
    PROCESS_BYTES,
    kept_items,
    loading_memory,
    optimizer_item,
    training_memory,
)
from runner.plan.shapes import Shapes
from runner.plan.trained import adapted_weights, trained_parameters

# Measured on a CPU (benchmarks/RESULTS.md): Python with numpy and the blocks that are merged, 16
# MiB of the base at a time; llama.cpp's converter, which imports torch and holds a tensor twice as
# float32: 949 MB with a largest tensor of 28 million numbers, 1517 MB with one of 101 million.
_MERGING_BYTES = 100_000_000
_CONVERTING_BYTES = 730_000_000
_FLOAT64 = 8
# As they follow. The first four are of the stage `train`, each other is a stage.
_TRAINING = ("load", "first step", "train", "save")
PHASES = (*_TRAINING, "evaluate", "harness", "constants", "fidelity")


def phases_of(shapes: Shapes, job: Job, device: str = "cuda") -> dict[str, Memory]:
    """What is in memory in each phase of a run, by kind: a GPU's, or the machine's on a cpu."""
    alone = job.processes == 1  # of several, the training has all that its first process writes
    phases = {"load": loading_memory(shapes, job, device)}
    if alone:
        phases["first step"] = training_memory(shapes, job, device, first=True)
    phases["train"] = training_memory(shapes, job, device)
    if alone:
        phases["save"] = saving_memory(shapes, job, device)
    if job.questions or job.loss:
        phases["evaluate"] = evaluation_memory(shapes, job, device)
    if job.tasks:
        phases["harness"] = harness_memory(shapes, job, device)
    if job.rebuilt:
        phases["constants"] = constants_memory(shapes, job, device)
    if job.compared:
        phases["fidelity"] = fidelity_memory(shapes, job, device)
    return phases


def beside_of(shapes: Shapes, job: Job) -> dict[str, Memory]:
    """The phases that no GPU takes part in, and what they take of the machine's own memory."""
    phases = {}
    if job.merged:
        phases["merge"] = merging_memory(shapes, job)
    if job.converted:
        phases["convert"] = converting_memory(shapes)
    return phases


def saving_memory(shapes: Shapes, job: Job, device: str = "cuda") -> Memory:
    """While a checkpoint is written: no gradients, and no activations.

    From a GPU what learns is copied to the host first, to the memory of both where they share one;
    on a CPU the files are written from where the weights lie.
    """
    trained = FLOAT32 * trained_parameters(shapes, job.adapter)
    shared = device == "cuda" and not job.pages
    return memory_of(
        [
            *kept_items(shapes, job, device),
            optimizer_item(shapes, job, device),
            Item("copy that is written", trained if shared else 0),
            Item("process", PROCESS_BYTES[device]),
        ]
    )


def merging_memory(shapes: Shapes, job: Job) -> Memory:
    """The merge reads blocks of rows: the size of a model plays no part, the adapter's rank does.

    Of the layer at hand the adapter's two matrices are held as float64, those of all adapters.
    """
    pairs = (weight.rows + weight.columns for weight in adapted_weights(shapes, job.adapter))
    matrices = _FLOAT64 * job.adapter.r * max(pairs, default=0)
    process = Item("process, and blocks of the base", _MERGING_BYTES)
    return memory_of([process, Item("matrices of the largest layer's adapter", matrices)])


def converting_memory(shapes: Shapes) -> Memory:
    """llama.cpp's converter holds one tensor at a time, twice as float32."""
    largest = max(weight.rows * weight.columns for weight in shapes.weights)
    process = Item("process", _CONVERTING_BYTES)
    return memory_of([process, Item("largest tensor, twice as float32", 2 * FLOAT32 * largest)])
