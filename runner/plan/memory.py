"""How much memory a training and an evaluation take at their peak: arithmetic on shapes, no torch.

An estimate, item by item, so that a reader sees where the bytes are. Weights, adapter, gradients
and optimizer are exact to the number; activations are what the layers of Transformers keep for the
way back. Bytes throughout; a GB is 10^9 of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.plan import parted_memory
from runner.plan.optimizers import Tensor, state_bytes, staying_bytes, step_bytes
from runner.plan.shapes import Kind, Shapes, Weight, in_layer
from runner.recipe.methods import METHODS

if TYPE_CHECKING:
    from runner.recipe.model import Adapter, Quantization, Recipe

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = 4  # bytes; what is trained is float32, whatever lies below it (scripts/train_native.py)
# bitsandbytes: one scale for 64 values; quantised again, a byte each and a float32 for 256 scales.
_BLOCK, _SCALES = 64, 256
# Python, torch and the libraries around it: measured with an idle Trainer on a CPU; on a GPU the
# context, cuBLAS's workspace and what the allocator holds beside what is asked for.
PROCESS_BYTES = {"cpu": 900_000_000, "cuda": 1_500_000_000}
QUANTISING_BYTES = 14  # bitsandbytes on a CPU, for each number of a weight: benchmarks/loading.py
EVALUATION_BATCH = 16  # scripts/evaluate.py: questions answered at once


@dataclass(frozen=True, slots=True)
class Item:
    """One part of the memory, in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Parts whose sum is the peak; what is in memory at another moment is not among them."""

    items: tuple[Item, ...]

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(item.bytes for item in self.items)


@dataclass(frozen=True, slots=True)
class Job:
    """What of a recipe decides how much memory it takes; `of` reads it from one."""

    dtype: str
    quantization: Quantization | None
    attn_implementation: str
    adapter: Adapter
    optim: str
    bf16: bool
    gradient_checkpointing: bool
    batch: int  # rows in one forward pass
    accumulation: int  # forward passes of one step
    length: int  # tokens of the longest row
    new_tokens: int  # of the longest answer in the evaluation
    questions: int  # answered at once
    loss: bool  # is the held-out loss measured?
    reference: bool = False  # is there a second, frozen copy of the model?
    scored: bool = False  # are there a reward model, and a value model that learns?
    answer: int = 0  # tokens that are sampled behind the longest row
    sides: int = 1  # rows of a forward pass for one of the recipe's batch: a pair has two
    answers: int = 0  # that are drawn at once while training
    processes: int = 1  # that hold a part of the model each, on all machines
    here: int = 1  # of them on a machine
    tasks: bool = False  # of lm-evaluation-harness: are there any?
    merged: bool = False  # is the result merged into its base?
    converted: bool = False  # into a GGUF file?
    pages: bool = False  # has the host memory of its own, to page states to?

    @classmethod
    def of(cls, recipe: Recipe) -> Job:
        """The job of `recipe`. Questions in a file are not counted: they may fill a batch."""
        train, evaluate = recipe.train, recipe.evaluate
        return cls(
            dtype=recipe.model.dtype,
            quantization=recipe.model.quantization,
            attn_implementation=recipe.model.attn_implementation,
            adapter=train.adapter,
            optim=train.optim,
            bf16=train.bf16,
            gradient_checkpointing=train.gradient_checkpointing,
            batch=METHODS[train.method].rows * train.per_device_train_batch_size,
            sides=METHODS[train.method].rows,
            accumulation=train.gradient_accumulation_steps,
            length=recipe.data.max_length + (train.response_length or 0),
            new_tokens=max(evaluate.max_new_tokens, train.max_completion_length or 0)
            if evaluate
            else 0,
            questions=_questions(recipe),
            loss=bool(evaluate and evaluate.loss and not METHODS[train.method].generates),
            answers=_answers(recipe),
            # with an adapter, the model without it is the reference
            reference=train.method in ("dpo", "kto", "grpo", "ppo")
            and train.adapter.type == "none",
            scored=train.method == "ppo",
            answer=train.response_length or 0,
            processes=train.all_processes,
            here=train.processes,
            tasks=bool(evaluate and evaluate.harness),
            merged=recipe.merge is not None and train.adapter.type != "none",
            converted=recipe.gguf is not None,
        )

    @property
    def computed(self) -> int:
        """Bytes of a number that the layers compute with."""
        return 2 if self.bf16 else DTYPE_BYTES[self.stream]

    @property
    def stream(self) -> str:
        """Dtype of what flows from layer to layer: that of the embeddings."""
        return "float32" if self.adapter.type == "none" else self.dtype


def training_memory(
    shapes: Shapes, job: Job, device: str = "cuda", *, first: bool = False
) -> Memory:
    """Peak of the training. `device`: cpu or cuda, for what the process itself takes.

    The peak is where the way back begins, or, where little is kept for it, the optimizer's step, or
    where many answers are drawn at once. Of several processes: of one with its GPU, or of all that
    share the memory of a machine without. `first`: of its first step, before which the optimizer
    has no states (of one process).
    """
    if job.processes > 1:
        each = _parted_training(shapes, job, device)
        copies = job.here if device == "cpu" else 1
        return Memory(tuple(Item(item.name, copies * item.bytes) for item in each.items))
    trained = trained_parameters(shapes, job.adapter)
    tensors = list(trained_tensors(shapes, job.adapter))
    states = optimizer_item(shapes, job, device)
    gradients = Item("gradients", FLOAT32 * trained)
    computing = [] if first else [states]
    turn = [*computing, *_at_the_turn(shapes, job)]
    if job.accumulation > 1:  # else they come as activations go
        turn.append(gradients)
    temporary = (
        step_bytes(job.optim, tensors) if device == "cuda" else 0
    )  # one weight after the other on a CPU
    stepping = [states, gradients, Item("step of the optimizer", temporary)]
    moments = [turn, stepping]
    if job.answers:
        moments.append([*computing, *_while_answering(shapes, job)])
    peak = max(moments, key=lambda items: sum(item.bytes for item in items))
    kept = kept_items(shapes, job, device)
    return memory_of([*kept, *peak, Item("process", PROCESS_BYTES[device])])


def kept_items(shapes: Shapes, job: Job, device: str = "cuda") -> list[Item]:
    """The models that are in memory from the first step to the last."""
    learning = FLOAT32 * trained_parameters(shapes, job.adapter)
    kept = [
        *weight_items(shapes, job),
        Item("reference model", FLOAT32 * shapes.parameters if job.reference else 0),
        Item("adapter", 0 if job.adapter.type == "none" else learning),
    ]
    if job.scored:
        kept += _scorers(shapes, job, optimizer_item(shapes, job, device).bytes)
    return kept


def optimizer_item(shapes: Shapes, job: Job, device: str = "cuda") -> Item:
    """What the optimizer keeps from step to step; on a GPU without what it pages to the host."""
    kept_of = staying_bytes if device == "cuda" and job.pages else state_bytes
    states = kept_of(job.optim, trained_tensors(shapes, job.adapter))
    return Item(f"optimizer ({job.optim})", states)


def _parted_training(shapes: Shapes, job: Job, device: str) -> Memory:
    """Of one process with a part of the model; methods with more than one model are not parted.

    The first process puts an adapter together in its memory, when gradients and optimizer are gone;
    the file is made there once more. A model is put together and written one weight at a time.
    """
    trained = trained_parameters(shapes, job.adapter)
    tensors = list(trained_tensors(shapes, job.adapter))

    def part(name: str, size: int) -> Item:
        return Item(f"{name}, 1/{job.processes} of all", parted_memory.part(size, job.processes))

    every = job.adapter.type == "none"
    value = FLOAT32 if every else DTYPE_BYTES[job.dtype]
    gradients = part("gradients", FLOAT32 * trained)
    whole = parted_memory.whole_for_a_while(shapes, value, FLOAT32 * trained)
    kept = [
        *(part(item.name, item.bytes) for item in weight_items(shapes, job)),
        part("adapter", 0 if every else FLOAT32 * trained),
    ]
    optimizer = part(f"optimizer ({job.optim})", state_bytes(job.optim, tensors))
    computing = [
        optimizer,
        *_at_the_turn(shapes, job),
        gradients,
        Item("layers put together", whole),
    ]
    temporary = step_bytes(job.optim, tensors) if device == "cuda" else 0
    stepping = [optimizer, gradients, part("step of the optimizer", temporary)]
    writing = [Item("whole adapter, and as it is written", 2 * FLOAT32 * trained)]
    if every:
        largest = max(weight.size for weight in shapes.weights)
        gathered = parted_memory.GATHERED * FLOAT32 * largest
        writing = [Item("largest weight, put together and written", gathered)]
    peak = max((computing, stepping, writing), key=lambda items: sum(item.bytes for item in items))
    return memory_of([*kept, *peak, Item("process", PROCESS_BYTES[device])])


def _scorers(shapes: Shapes, job: Job, state: int) -> list[Item]:
    """Of PPO: two models of the policy's own shapes, since the reward model's need not be known.

    The value model learns as the policy does, with `state` bytes of its optimizer. Of every sampled
    token its logits are kept.
    """
    trained = trained_parameters(shapes, job.adapter)
    held = DTYPE_BYTES[job.dtype]
    whole = job.adapter.type == "none"
    learning = (FLOAT32 if whole else held) * shapes.parameters + (
        0 if whole else FLOAT32 * trained
    )
    logits = job.batch * job.accumulation * job.answer * shapes.vocabulary * job.computed
    return [
        Item("reward model", held * shapes.parameters),
        Item("value model", learning),
        Item("its gradients and optimizer", FLOAT32 * trained + state),
        Item("logits of the sampled answers", logits),
    ]


def _questions(recipe: Recipe) -> int:
    """Answers at once in the evaluation."""
    evaluate = recipe.evaluate
    if evaluate is None:
        return 0
    rewarded = evaluate.loss and METHODS[recipe.train.method].generates
    if evaluate.questions or evaluate.forgetting or rewarded:
        return EVALUATION_BATCH
    return min(EVALUATION_BATCH, evaluate.samples)


def _answers(recipe: Recipe) -> int:
    """Answers that are drawn at once while training: all of a step."""
    train = recipe.train
    if not METHODS[train.method].generates:
        return 0
    return train.per_device_train_batch_size * train.gradient_accumulation_steps


def _while_answering(shapes: Shapes, job: Job) -> list[Item]:
    """What is in memory beside the weights when the last token is drawn: the keys and values of all
    answers, and the logits of one token, as computed and as float32."""
    value = DTYPE_BYTES[job.stream]
    cache = job.answers * job.length * cache_bytes(shapes, value)
    logits = job.answers * shapes.vocabulary * (value + 2 * FLOAT32)
    return [Item(f"KV cache of {job.answers} answers", cache), Item("logits of a token", logits)]


def loading_memory(shapes: Shapes, job: Job, device: str = "cuda") -> Memory:
    """Peak of the loading: all weights, and the largest as it is stored, before it is quantised.

    The native scripts give the page cache of what was read back to the kernel. Of several
    processes: as in `training_memory`.
    """
    if job.processes > 1:
        each = _parted_loading(shapes, job, device)
        copies = job.here if device == "cpu" else 1
        return Memory(tuple(Item(item.name, copies * item.bytes) for item in each.items))
    held = weight_items(shapes, job)
    if job.quantization is not None:
        linear = (w.rows * w.columns for w in shapes.weights if w.kind is Kind.LINEAR)
        largest = max(linear)
        held.append(Item("largest weight, as stored", DTYPE_BYTES[job.dtype] * largest))
        if device == "cpu":
            held.append(Item("quantising it", QUANTISING_BYTES * largest))
    held.append(Item("lengths of a weight's columns (DoRA)", _lengths(shapes, job)))
    return memory_of([*held, Item("process", PROCESS_BYTES[device])])


def _parted_loading(shapes: Shapes, job: Job, device: str) -> Memory:
    """Of one process: its part, or all where the model has a way of its own to be loaded.

    An adapter is drawn whole before it is parted.
    """
    every = job.adapter.type == "none"
    adapter = 0 if every else FLOAT32 * trained_parameters(shapes, job.adapter)
    held = [
        Item(
            f"{item.name}, 1/{job.processes} of all", parted_memory.part(item.bytes, job.processes)
        )
        for item in weight_items(shapes, job)
    ]
    held.append(Item("rows that are read", parted_memory.READING_BYTES))
    if shapes.own_way:
        held = [
            Item(f"{item.name}, all in every process: {shapes.own_way}", item.bytes)
            for item in weight_items(shapes, job)
        ]
    return memory_of([*held, Item("adapter", adapter), Item("process", PROCESS_BYTES[device])])


def evaluation_memory(shapes: Shapes, job: Job, device: str = "cuda") -> Memory:
    """Peak of the evaluation, at most: prompts as long as rows may be, answers as long as allowed.

    Base and tuned model are never in memory together, but for an adapter on its base.
    """
    value = DTYPE_BYTES[job.dtype]
    adapter = 0 if job.adapter.type == "none" else FLOAT32 * trained_parameters(shapes, job.adapter)
    loss = job.length * shapes.vocabulary * (value + 2 * FLOAT32) if job.loss else 0
    cache = job.questions * (job.length + job.new_tokens) * cache_bytes(shapes, value)
    phase = Item("logits of a row", loss)
    if cache >= loss:
        phase = Item(f"KV cache of {job.questions} answers", cache)
    held = [*_held_weights(shapes, job, value), Item("adapter", adapter)]
    return memory_of([*held, phase, Item("process", PROCESS_BYTES[device])])


def cache_bytes(shapes: Shapes, value: int) -> int:
    """Bytes of the keys and values of one token in all layers, `value` bytes each."""
    return 2 * shapes.layers * shapes.keys * value


def memory_of(items: Iterable[Item]) -> Memory:
    return Memory(tuple(item for item in items if item.bytes))


# --- weights


def weight_items(shapes: Shapes, job: Job) -> list[Item]:
    """The base model as it lies in memory while it is trained."""
    return _held_weights(
        shapes, job, FLOAT32 if job.adapter.type == "none" else DTYPE_BYTES[job.dtype]
    )


def _held_weights(shapes: Shapes, job: Job, value: int) -> list[Item]:
    if job.quantization is None:
        return [Item("weights", value * shapes.parameters)]
    packed = sum(w.rows * w.columns for w in shapes.weights if w.kind is Kind.LINEAR)
    blocks = packed // _BLOCK
    scales = FLOAT32 * blocks
    if job.quantization.bnb_4bit_use_double_quant:
        scales = blocks + FLOAT32 * blocks // _SCALES
    return [
        Item("weights in 4 bits", packed // 2),
        Item("scales of their blocks", scales),
        Item("embeddings, output layer, norms", value * (shapes.parameters - packed)),
    ]


# --- what is trained


def trained_parameters(shapes: Shapes, adapter: Adapter) -> int:
    """Numbers that learn: of the adapter and the modules trained as a whole, or all."""
    return sum(tensor.size for tensor in trained_tensors(shapes, adapter))


def trained_tensors(shapes: Shapes, adapter: Adapter) -> Iterator[Tensor]:
    """The tensors that learn, as the optimizer is given them."""
    if adapter.type == "none":
        learning = (weight for weight in shapes.weights if _learns(weight, shapes, adapter))
        for weight in learning:
            yield from () if weight.tied else _whole(weight)
        return
    for weight in adapted_weights(shapes, adapter):
        yield from _adapter_tensors(weight, adapter)
    for weight in _saved(shapes, adapter):
        yield from _whole(weight)


def _whole(weight: Weight) -> Iterator[Tensor]:
    yield Tensor(weight.rows, weight.columns, embedding=weight.kind is Kind.EMBEDDING)
    if weight.bias:
        yield Tensor(weight.rows)


def _learns(weight: Weight, shapes: Shapes, adapter: Adapter) -> bool:
    """Without an adapter: does it lie in the layers that learn, as adapter_targets.py has it?"""
    count, place = adapter.trainable_layers, in_layer(weight.module)
    if count is None:
        return True
    if place is None:
        return False
    chosen = place[0] >= shapes.layers - count if count > 0 else place[0] < -count
    return chosen and (not adapter.trainable_modules or place[1] in adapter.trainable_modules)


def adapted_weights(shapes: Shapes, adapter: Adapter) -> list[Weight]:
    """The weights that get an adapter, chosen as scripts/training/adapter_targets.py does."""
    saved = {weight.module for weight in _saved(shapes, adapter)}
    return [
        weight
        for weight in shapes.weights
        if weight.kind is not Kind.VECTOR
        and weight.module not in saved
        and _is_target(weight, adapter.target_modules)
        and not _names(adapter.exclude_modules, weight.module)
    ]


def _is_target(weight: Weight, targets: str | Iterable[str]) -> bool:
    if targets == "all-linear":
        return weight.kind is Kind.LINEAR
    if targets == "all-attention":
        return weight.kind is Kind.LINEAR and ".self_attn." in weight.module
    return _names(targets, weight.module)


def _names(wanted: str | Iterable[str], module: str) -> bool:
    """A text is a regular expression for the whole name; a list has ends of names."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(_ends_with(module, end) for end in wanted)


def _ends_with(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


def _saved(shapes: Shapes, adapter: Adapter) -> list[Weight]:
    """Weights trained as a whole: those that `modules_to_save` names, and those inside of them."""
    if not adapter.modules_to_save:
        return []
    return [
        weight
        for weight in shapes.weights
        if any(
            _ends_with(above, end) for above in _above(weight) for end in adapter.modules_to_save
        )
    ]


def _above(weight: Weight) -> list[str]:
    """The module and every module around it."""
    parts = weight.module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _adapter_tensors(weight: Weight, adapter: Adapter) -> Iterator[Tensor]:
    rank = next(
        (
            value
            for pattern, value in adapter.rank_pattern.items()
            if re.match(rf"(.*\.)?({pattern})$", weight.module)
        ),
        adapter.r,
    )
    yield Tensor(rank, weight.columns)
    yield Tensor(weight.rows, rank)
    if adapter.use_dora:
        yield Tensor(weight.rows)
    if adapter.lora_bias:
        yield Tensor(weight.rows)


# --- activations


def _at_the_turn(shapes: Shapes, job: Job) -> list[Item]:
    """What is in memory beside the weights where the way back begins.

    Everything that was kept, and the logits. With checkpointing the input of every layer is kept
    and, when the logits are gone, one layer is computed again, and has gradients of its own.
    """
    tokens = job.batch * job.length
    logits = Item("logits and loss", _logits(shapes, job))
    each, scaled = (tokens * size(shapes, job) for size in (_layer_bytes, _scaled_bytes))
    copies = Item("bfloat16 copies of weights", _autocast_copies(shapes, job))
    lengths = Item("lengths of a weight's columns (DoRA)", _lengths(shapes, job))
    if not job.gradient_checkpointing:
        return [Item("activations", shapes.layers * (each + scaled)), logits, copies, lengths]
    inputs = shapes.layers * tokens * shapes.hidden * DTYPE_BYTES[job.stream]
    # measured: what DoRA scales is gone before the gradients of the rest are there
    once = max(2 * each, each + scaled)
    again = Item("one layer, again and back", once + _one_weight(shapes, job))
    largest = max(logits, again, key=lambda item: item.bytes)
    return [Item("kept input of every layer", inputs), largest, copies, lengths]


def _one_weight(shapes: Shapes, job: Job) -> int:
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


def _lengths(shapes: Shapes, job: Job) -> int:
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
