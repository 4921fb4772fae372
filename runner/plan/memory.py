"""How much memory loading and training take at their peak: arithmetic on shapes, no torch.

An estimate, item by item, so that a reader sees where the bytes are. Weights, adapter, gradients
and optimizer are exact to the number; activations are what the layers of Transformers keep for the
way back. Bytes throughout; a GB is 10^9 of them.
"""

from __future__ import annotations

from runner.plan import parted_memory
from runner.plan.activations import at_the_turn, lengths
from runner.plan.job import DTYPE_BYTES, FLOAT32, Item, Job, Memory, memory_of
from runner.plan.optimizers import state_bytes, staying_bytes, step_bytes
from runner.plan.shapes import Kind, Shapes
from runner.plan.trained import trained_parameters, trained_tensors

# bitsandbytes: one scale for 64 values; quantised again, a byte each and a float32 for 256 scales.
_BLOCK, _SCALES = 64, 256
# Python, torch and the libraries around it: measured with an idle Trainer on a CPU; on a GPU the
# context, cuBLAS's workspace and what the allocator holds beside what is asked for.
PROCESS_BYTES = {"cpu": 900_000_000, "cuda": 1_500_000_000}
QUANTISING_BYTES = 14  # bitsandbytes on a CPU, for each number of a weight: benchmarks/loading.py


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
    turn = [*computing, *at_the_turn(shapes, job)]
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
        *at_the_turn(shapes, job),
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
    held.append(Item("lengths of a weight's columns (DoRA)", lengths(shapes, job)))
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


def cache_bytes(shapes: Shapes, value: int) -> int:
    """Bytes of the keys and values of one token in all layers, `value` bytes each."""
    return 2 * shapes.layers * shapes.keys * value


# --- weights


def weight_items(shapes: Shapes, job: Job) -> list[Item]:
    """The base model as it lies in memory while it is trained."""
    return held_weights(
        shapes, job, FLOAT32 if job.adapter.type == "none" else DTYPE_BYTES[job.dtype]
    )


def held_weights(shapes: Shapes, job: Job, value: int) -> list[Item]:
    """The base model with `value` bytes for a number that is not held in 4 bits."""
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
