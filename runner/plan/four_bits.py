"""What the stages take that a base in 4 bits brings along: `constants` and `fidelity`."""

from __future__ import annotations

from runner.plan.evaluating import passing
from runner.plan.job import DTYPE_BYTES, FLOAT32, Item, Job, Memory, memory_of
from runner.plan.memory import PROCESS_BYTES, held_weights, loading_memory
from runner.plan.shapes import Kind, Shapes
from runner.plan.trained import trained_parameters
from runner.scripts.evaluation.batches import TOKENS

BLOCK = 64  # values that share a scale
COMPARED_TOKENS = 2048  # scripts/fidelity.py: of the rows that two models are held against
SPARE = 1.25  # scripts/merging/merged_model.py: of a model's size, to be loaded at once


def scales_bytes(shapes: Shapes) -> int:
    """Of the file that `constants` writes: a float32 for each block of each weight in 4 bits."""
    linear = (w.rows * w.columns for w in shapes.weights if w.kind is Kind.LINEAR)
    return FLOAT32 * sum(-(-size // BLOCK) for size in linear)


def predictions_bytes(shapes: Shapes) -> int:
    """Of the file in which `fidelity` keeps the trained model's predictions, at most."""
    return FLOAT32 * COMPARED_TOKENS * shapes.vocabulary


def constants_memory(shapes: Shapes, job: Job, device: str = "cuda") -> Memory:
    """The base is loaded as it is trained; then of one weight at a time the scales, and the weight
    out of its 4 bits, twice."""
    assert job.quantization is not None
    loading = loading_memory(shapes, job, device)
    largest = max(w.rows * w.columns for w in shapes.weights if w.kind is Kind.LINEAR)
    computed = DTYPE_BYTES[job.quantization.bnb_4bit_compute_dtype]
    reading = memory_of(
        [
            *held_weights(shapes, job, DTYPE_BYTES[job.dtype]),
            Item("largest weight, out of its 4 bits", 2 * computed * largest),
            Item("its scales", FLOAT32 * largest // BLOCK),
            Item("process", PROCESS_BYTES[device]),
        ]
    )
    return max(loading, reading, key=lambda memory: memory.total)


def fidelity_memory(shapes: Shapes, job: Job, device: str = "cuda", have: int = 0) -> Memory:
    """The trained model and then the merged one read held-out rows, each by itself in memory.

    `have`: bytes that there are. A merged model that does not fit them is read from the disk, a
    tensor at a time. Without `have`: the way that takes less, which is enough.
    """
    row, value = job.length, DTYPE_BYTES[job.dtype]
    trained = [
        *held_weights(shapes, job, value),
        Item("adapter", FLOAT32 * trained_parameters(shapes, job.adapter)),
        max(
            Item("logits of a row, and predictions", _compared(shapes, value, row, row)),
            Item("a row in one layer", passing(shapes, job, row, padded=False)),
            key=lambda item: item.bytes,
        ),
    ]
    held = DTYPE_BYTES[job.merged_dtype]
    size = held * shapes.parameters
    whole = [
        Item("merged model", size),
        Item("logits of a row, and predictions", _compared(shapes, held, row, row)),
    ]
    streamed = [
        Item("largest tensor of the merged model", held * _largest(shapes)),
        Item("logits of rows, and predictions", _compared(shapes, held, max(TOKENS, row), row)),
    ]
    ways = {True: whole, False: streamed}
    merged = ways[size * SPARE <= have] if have else min(ways.values(), key=_sum)
    return memory_of([*max(trained, merged, key=_sum), Item("process", PROCESS_BYTES[device])])


def _sum(items: list[Item]) -> int:
    return sum(item.bytes for item in items)


def _compared(shapes: Shapes, value: int, tokens: int, row: int) -> int:
    """Logits of so many tokens; of those of a row that are compared one model's predictions, and
    the other's logits, these as float32, and the logarithms of their softmax."""
    compared = min(row, COMPARED_TOKENS)
    return shapes.vocabulary * (value * tokens + (value + 3 * FLOAT32) * compared)


def _largest(shapes: Shapes) -> int:
    return max(weight.rows * weight.columns for weight in shapes.weights)
