"""How much memory the stages take that only ask a model, at their peaks; arithmetic alone.

Base and tuned model are never in memory together, but for an adapter on its base. Nothing is kept
for a way back: at one moment there is one layer's work, and the keys and values of all layers.
"""

from __future__ import annotations

from runner.plan.activations import lengths, one_weight
from runner.plan.job import DTYPE_BYTES, FLOAT32, Item, Job, Memory, memory_of
from runner.plan.memory import PROCESS_BYTES, cache_bytes, held_weights
from runner.plan.shapes import Kind, Shapes
from runner.plan.trained import adapted_weights, trained_parameters
from runner.scripts.evaluation.batches import tokens_at_once

HARNESS_BATCH = 8  # scripts/harness.py: rows at once


def evaluation_memory(shapes: Shapes, job: Job, device: str = "cuda") -> Memory:
    """At most: prompts as long as rows may be, answers as long as allowed.

    The peak is while a batch of prompts is read, or when the last tokens of its answers are drawn,
    or while a held-out row is scored.
    """
    asked = tokens_at_once(job.questions, job.length)
    row = job.length if job.loss else 0
    cache = cache_bytes(shapes, DTYPE_BYTES[job.dtype])
    answers = job.questions * job.new_tokens
    moments = [
        [
            Item("KV cache of the prompts", asked * cache),
            Item("prompts in one layer", passing(shapes, job, asked)),
        ],
        [Item(f"KV cache of {job.questions} answers", (asked + answers) * cache)],
        [Item("logits of a row", row * _logits_of_token(shapes, job))],
        [Item("a row in one layer", passing(shapes, job, row, padded=False))],
    ]
    return _asking(shapes, job, moments, device)


def harness_memory(shapes: Shapes, job: Job, device: str = "cuda") -> Memory:
    """With tasks' rows as long as those of the training: nothing says how long they are.

    lm-evaluation-harness takes the logits at every position, and their logarithms in their dtype.
    """
    tokens = HARNESS_BATCH * job.length
    logits = tokens * shapes.vocabulary * 2 * DTYPE_BYTES[job.dtype]
    moments = [
        [Item(f"logits of {HARNESS_BATCH} rows", logits)],
        [Item(f"{HARNESS_BATCH} rows in one layer", passing(shapes, job, tokens, padded=False))],
    ]
    return _asking(shapes, job, moments, device)


def passing(shapes: Shapes, job: Job, tokens: int, *, padded: bool = True) -> int:
    """Bytes of the work of one layer on so many tokens, on their way through it.

    `padded`: a batch whose rows are of several lengths, so that a mask says who sees whom.
    """
    if not tokens:
        return 0
    value = DTYPE_BYTES[job.dtype]
    # the activated gate, and what the base makes of `up`; beside it the gate and up's product, or
    # what an adapter adds, in float32 and once more scaled
    added = max(2 * value * shapes.intermediate, 2 * FLOAT32 * _widest(shapes, job))
    feed_forward = 2 * value * shapes.intermediate + added
    attention = 4 * shapes.queries * value  # queries, keys and values for every head, output
    if job.attn_implementation == "eager":  # the whole square, as float32 and as computed
        attention += shapes.heads * job.length * (FLOAT32 + value)
    elif padded:  # the mask as the kernel wants it
        attention += job.length * value
    mask = job.length if padded else 0
    # the layer's input, and the normed one, in float32 for an adapter
    inputs = shapes.hidden * (2 * value + FLOAT32 if job.adapter.type != "none" else 4 * value)
    held = one_weight(shapes, job) + lengths(shapes, job)
    return tokens * (inputs + mask + max(feed_forward, attention)) + held


def _widest(shapes: Shapes, job: Job) -> int:
    """Rows of the largest adapted weight, 0 without an adapter."""
    if job.adapter.type == "none":
        return 0
    adapted = adapted_weights(shapes, job.adapter)
    return max((each.rows for each in adapted if each.kind is Kind.LINEAR), default=0)


def _logits_of_token(shapes: Shapes, job: Job) -> int:
    """As computed, as float32, and the logarithms of their softmax."""
    return shapes.vocabulary * (DTYPE_BYTES[job.dtype] + 2 * FLOAT32)


def _asking(shapes: Shapes, job: Job, moments: list[list[Item]], device: str) -> Memory:
    """The model, and the moment that takes most."""
    whole = job.adapter.type == "none"
    adapter = 0 if whole else FLOAT32 * trained_parameters(shapes, job.adapter)
    held = [*held_weights(shapes, job, DTYPE_BYTES[job.dtype]), Item("adapter", adapter)]
    peak = max(moments, key=lambda items: sum(item.bytes for item in items))
    return memory_of([*held, *peak, Item("process", PROCESS_BYTES[device])])
