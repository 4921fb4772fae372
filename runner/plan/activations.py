"""What a training keeps for the way back, and what it needs there for a while."""

from __future__ import annotations

import math

from runner.plan.job import DTYPE_BYTES, FLOAT32, Item, Job
from runner.plan.shapes import Kind, Shapes
from runner.plan.trained import adapted_weights


def at_the_turn(shapes: Shapes, job: Job) -> list[Item]:
    """What is in memory beside the weights where the way back begins.

    Everything that was kept, and the logits. With checkpointing the input of every layer is kept
    and, when the logits are gone, one layer is computed again, and has gradients of its own.
    """
    tokens = job.batch * job.length
    logits = Item("logits and loss", _logits(shapes, job))
    each, scaled = (tokens * size(shapes, job) for size in (_layer_bytes, _scaled_bytes))
    copies = Item("bfloat16 copies of weights", _autocast_copies(shapes, job))
    normed = Item("lengths of a weight's columns (DoRA)", lengths(shapes, job))
    if not job.gradient_checkpointing:
        return [Item("activations", shapes.layers * (each + scaled)), logits, copies, normed]
    inputs = shapes.layers * tokens * shapes.hidden * DTYPE_BYTES[job.stream]
    # measured: what DoRA scales is gone before the gradients of the rest are there
    once = max(2 * each, each + scaled)
    again = Item("one layer, again and back", once + one_weight(shapes, job))
    largest = max(logits, again, key=lambda item: item.bytes)
    return [Item("kept input of every layer", inputs), largest, copies, normed]


def one_weight(shapes: Shapes, job: Job) -> int:
    """The largest weight as it is while it is multiplied, out of its 4 bits."""
    if job.quantization is None:
        return 0
    largest = max(w.rows * w.columns for w in shapes.weights if w.kind is Kind.LINEAR)
    return largest * DTYPE_BYTES[job.quantization.bnb_4bit_compute_dtype]


def _layer_bytes(shapes: Shapes, job: Job) -> int:
    """Bytes that one layer keeps for one token."""
    value, stream = job.computed, DTYPE_BYTES[job.stream]
    # a norm keeps its input in float32, the normed values before and after the scale
    norms = shapes.norms * shapes.hidden * (FLOAT32 + 2 * stream)
    # queries, keys and values repeated for every head, the output
    attention = 4 * shapes.queries * value
    if job.attn_implementation == "eager":  # the whole square, as float32 and as computed
        attention += shapes.heads * job.length * (FLOAT32 + value)
    feed_forward = 4 * shapes.intermediate * value  # gate, its activation, up, their product
    return norms + attention + feed_forward + _adapter_bytes(shapes, job)


def _adapter_bytes(shapes: Shapes, job: Job) -> int:
    """What the adapters of one layer keep for a token: the inputs in their own dtype, and masks."""
    columns = sum(
        weight.columns
        for weight in adapted_weights(shapes, job.adapter)
        if weight.kind is Kind.LINEAR
    )
    dropped = job.adapter.lora_dropout > 0
    copied = 2 if job.bf16 else FLOAT32 if dropped or job.dtype != "float32" else 0
    return math.ceil(columns / shapes.layers) * (copied + dropped)


def _scaled_bytes(shapes: Shapes, job: Job) -> int:
    """What DoRA keeps of one layer for a token: the outputs of base and adapter, each to scale."""
    if not job.adapter.use_dora:
        return 0
    rows = sum(weight.rows for weight in adapted_weights(shapes, job.adapter))
    return 2 * job.computed * math.ceil(rows / shapes.layers)


def lengths(shapes: Shapes, job: Job) -> int:
    """What DoRA takes for a while: the largest weight, its change and their sum, as float32."""
    if not job.adapter.use_dora:
        return 0
    adapted = adapted_weights(shapes, job.adapter)
    return 3 * FLOAT32 * max((weight.rows * weight.columns for weight in adapted), default=0)


def _autocast_copies(shapes: Shapes, job: Job) -> int:
    """Autocast computes with bfloat16 copies of float32 weights and keeps them for the way back."""
    if not job.bf16 or DTYPE_BYTES[job.stream] != FLOAT32 or job.quantization is not None:
        return 0
    linear = sum(w.rows * w.columns for w in shapes.weights if w.kind is Kind.LINEAR)
    head = shapes.vocabulary * shapes.hidden
    one_by_one = job.gradient_checkpointing and job.adapter.type != "none"
    return 2 * (head + (linear // shapes.layers if one_by_one else linear))


def _logits(shapes: Shapes, job: Job) -> int:
    """Logits as computed, the logarithms of their softmax in float32, and the gradient of those."""
    caps = job.computed if shapes.capped_logits else 0
    return job.batch * job.length * shapes.vocabulary * (job.computed + caps + 2 * FLOAT32)
