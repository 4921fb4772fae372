"""What to put into a recipe for a model, data and a machine, each with the reason and its source.

Pure arithmetic: no disk, no network, no clock; the same question always has the same answer. The
memory is plan/memory.py's, so that what is recommended here is what `recipe plan` says later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from runner.plan.fit import single_changes
from runner.plan.job import Job, Memory
from runner.plan.machines import HERE_USABLE, Hardware, hardware
from runner.plan.phases import phases_of
from runner.plan.shapes import Shapes, shapes_of
from runner.plan.trained import trained_parameters
from runner.recipe.creation.by_method import (
    COMPLETION,
    GENERATIONS,
    IMITATING,
    LEAST_ROWS,
    RATES,
    own_settings,
    passes,
)
from runner.recipe.creation.goals import Goal
from runner.recipe.methods import METHODS
from runner.recipe.model import Recipe, build
from runner.recipe.schema import fill_defaults, load_schema
from runner.recipe.source import Source

GB = 10**9
RANKS = (16, 32, 64, 128)
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
EFFECTIVE_BATCH = 16
PROCESSOR_RATE = 0.16e12  # operations a second: SmolLM2-135M on two cores, 200 tokens a second
LARGE = 30 * 10**9  # parameters from which the QLoRA paper halves the learning rate
SMALL = 3 * 10**9  # parameters below which its rate for 7B is no measurement any more
MOST_HELD_OUT = 1000  # rows: enough to tell two models apart, few enough to answer
MIN_ROWS_TO_EVALUATE = 10
_BYTES_PER_TOKEN = 3  # of text in UTF-8, on the safe side: about 4 in English
_TEMPLATE_TOKENS = 64  # of a chat template around a row

# Sizes of published models: hidden, intermediate, layers, heads, key heads, vocabulary, tied.
_Sizes = tuple[int, int, int, int, int, int, bool]
_PUBLISHED: tuple[tuple[str, _Sizes], ...] = (
    ("SmolLM2-135M", (576, 1536, 30, 9, 3, 49152, True)),
    ("Qwen2.5-0.5B", (896, 4864, 24, 14, 2, 151936, True)),
    ("Llama-3.2-1B", (2048, 8192, 16, 32, 8, 128256, True)),
    ("Llama-3.2-3B", (3072, 8192, 28, 24, 8, 128256, True)),
    ("Llama-3.1-8B", (4096, 14336, 32, 32, 8, 128256, False)),
    ("Qwen2.5-14B", (5120, 13824, 48, 40, 8, 152064, False)),
    ("Qwen2.5-32B", (5120, 27648, 64, 40, 8, 152064, False)),
    ("Llama-3.1-70B", (8192, 28672, 80, 64, 8, 128256, False)),
    ("Llama-3.1-405B", (16384, 53248, 126, 128, 8, 128256, False)),
)


class FitsNowhere(Exception):
    """No way of training the model fits into the machine's memory; `need` and `have` in bytes."""

    def __init__(self, tuning: str, need: int, have: int) -> None:
        super().__init__(f"{tuning} needs about {need / GB:.0f} GB of {have / GB:.0f} GB")
        self.tuning, self.need, self.have = tuning, need, have


@dataclass(frozen=True, slots=True)
class Machine:
    """What trains. `memory` in bytes: a Spark's is shared, a GPU's is its own.

    `title` and `part`, the part of the memory that a training may plan with, are of a machine whose
    facts are known; without them its kind's are taken.
    """

    kind: str  # spark, gpu or cpu
    memory: int
    title: str = ""
    part: float = 0.0

    @classmethod
    def of(cls, known: Hardware, memory: int = 0) -> Machine:
        """One that `recipe plan --hardware` knows; `memory` in place of its own, if not 0."""
        kind = "cpu" if known.device == "cpu" else "spark" if known.unified else "gpu"
        return cls(kind, memory or known.memory, known.title, known.usable)

    @property
    def usable(self) -> int:
        """Bytes that a training may plan with."""
        return int(self.memory * (self.part or usable_part(self.kind)))

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def __str__(self) -> str:
        names = {"spark": "a DGX Spark", "gpu": "a GPU", "cpu": "a machine without GPU"}
        return f"{self.title or names[self.kind]} ({self.memory / GB:.4g} GB)"


# Kind -> the machine of plan/data/machines that stands for it.
_DESCRIBED = {"spark": "dgx-spark", "gpu": "rtx-4090"}


@cache
def usable_part(kind: str) -> float:
    """Which part of a machine's memory a training may plan with."""
    return HERE_USABLE if kind == "cpu" else hardware(_DESCRIBED[kind]).usable


_COMFORTABLE = (
    0.75  # of what is usable: the memory is a sum, and was not measured on such a machine
)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`shapes` are those of its config, or (`exact` false) of a published model of its size.

    `where`: whose config that is.
    """

    name: str
    shapes: Shapes
    exact: bool
    where: str = "its config"

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return self.shapes.parameters


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Rows of the files together; sizes in bytes of text. `rows` may be an estimate.

    Parts of the rows: `good` are called good, `answered` have an answer, `numeric` a number as it.
    """

    format: str
    rows: int
    longest: int
    total: int
    good: float = 0.0
    answered: float = 0.0
    numeric: float = 0.0

    @property
    def tokens(self) -> int:
        """About; on the large side for English."""
        return self.total // _BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Sections of a recipe as plain data, and a reason for what is not obvious, by pointer.

    `memory` is that of the phase `peak`, which takes most, as in `recipe plan`.
    """

    tuning: str
    sections: dict[str, Any]
    reasons: dict[str, str]
    memory: Memory
    peak: str
    fits: bool


def days_on_a_processor(model: ModelFacts, data: DataFacts, epochs: float) -> float:
    """About how long a training without GPU takes: six operations a number and token."""
    tokens = (data.tokens + data.rows * _TEMPLATE_TOKENS) * epochs
    return 6 * model.parameters * tokens / PROCESSOR_RATE / 86_400


def shapes_of_size(parameters: int) -> Shapes:
    """Shapes of a model of about this size: the nearest published one's, with as many layers."""

    def of(sizes: _Sizes, layers: int) -> Shapes:
        return _shapes((*sizes[:2], layers, *sizes[3:]))

    _, nearest = min(
        _PUBLISHED, key=lambda item: abs(math.log(_shapes(item[1]).parameters / parameters))
    )
    one, two = (of(nearest, layers).parameters for layers in (1, 2))
    return of(nearest, max(1, 1 + round((parameters - one) / (two - one))))


def smollm2() -> Shapes:
    """SmolLM2-135M's, of its published config."""
    return replace(_shapes(_PUBLISHED[0][1]), context=8192)


def _shapes(sizes: _Sizes) -> Shapes:
    hidden, intermediate, layers, heads, keys, vocabulary, tied = sizes
    return shapes_of(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": keys,
            "vocab_size": vocabulary,
            "tie_word_embeddings": tied,
        }
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """What is asked."""

    goal: Goal
    model: ModelFacts
    data: DataFacts
    machine: Machine


@dataclass(frozen=True, slots=True)
class _Training:
    """What is chosen: `kind` of tuning, rows of a forward pass and of a step."""

    kind: str
    rank: int
    length: int
    effective: int
    batch: int
    checkpointing: bool
    optim: str = ""  # not the usual one


def recommend(
    goal: Goal,
    model: ModelFacts,
    data: DataFacts,
    machine: Machine,
    *,
    tuning: str | None = None,
    max_length: int | None = None,
) -> Recommendation:
    """The sections `model` and `data` (in part), `train`, and what the goal wants behind it.

    A `tuning` or `max_length` that is given is taken, even where the memory will not do. Raises
    FitsNowhere when no tuning is given and none fits, NothingToLearn when the rows are not enough.
    """
    case = _Case(goal, model, data, machine)
    rank, length, effective = _rank(case), _max_length(case, max_length), _effective_batch(case)
    made = []
    for kind, why in _tunings(case, tuning):
        made.append(_fitted(case, kind, rank, length, effective))
        made[-1].reasons["/train/adapter"] = why
        # Every weight is only proposed where an adapter would not hold the data: then it need not
        # be comfortable, as long as it fits.
        enough = 1 if kind == "full" else _COMFORTABLE
        if tuning is not None or made[-1].memory.total <= enough * machine.usable:
            return made[-1]
    if tight := [each for each in made if each.fits]:
        return tight[0]
    raise FitsNowhere(made[-1].tuning, made[-1].memory.total, machine.usable)


# --- which way to train


def _tunings(case: _Case, given: str | None) -> Iterator[tuple[str, str]]:
    """Ways to train and why, the best first; the first that fits is taken."""
    if given is not None:
        yield given, "As asked for."
        return
    size, tokens = _count(case.model.parameters), _count(case.data.tokens)
    if _to_learn(case) > _capacity(case.model, RANKS[-1]):
        yield (
            "full",
            f"Full fine-tuning: {tokens} tokens are more than an adapter of rank {RANKS[-1]} holds "
            "(about 2 bits a number, 1 bit a token; Schulman et al., LoRA Without Regret, 2025), "
            "and the memory allows it.",
        )
    if case.goal.method not in IMITATING:
        tokens = f"{_count(case.data.rows)} rows, of which each tells about a bit,"
    else:
        tokens += " tokens"
    yield (
        "lora",
        f"LoRA: from {tokens} it learns what full fine-tuning learns, in a fraction of the "
        "memory (Schulman et al., LoRA Without Regret, 2025), and it forgets less (Biderman et "
        f"al., LoRA Learns Less and Forgets Less, 2024). The base, of {size} parameters, fits as "
        "it is, so it is not quantised.",
    )
    yield (
        "qlora",
        f"QLoRA: beside its training, a base of {size} parameters does not fit into "
        f"{case.machine} in 16 bits; in 4 bits it does (Dettmers et al., QLoRA, 2023).",
    )


def _to_learn(case: _Case) -> int:
    """Bits that the data has to tell: one a token where it is imitated, else one a row."""
    return case.data.tokens if case.goal.method in IMITATING else case.data.rows


def _capacity(model: ModelFacts, rank: int) -> int:
    """Tokens that an adapter can hold: two bits a number, one bit a token."""
    adapter = as_recipe({"train": _lasting({"adapter": _adapter(rank)})}).train.adapter
    return 2 * trained_parameters(model.shapes, adapter)


def _fitted(case: _Case, kind: str, rank: int, length: int, effective: int) -> Recommendation:
    """The way of this kind that changes least: an optimizer of small states only where it must be.

    Which one, plan/fit.py says, as `recipe plan` does.
    """
    usual = _largest_batch(case, _Training(kind, rank, length, effective, 1, True))
    if kind != "full" or usual.fits:
        return usual
    optim = _small_states(case, usual)
    if not optim:
        return usual
    small = _largest_batch(case, _Training(kind, rank, length, effective, 1, True, optim))
    small.reasons["/train/optim"] = (
        f"AdamW with its states in 8 bits (Dettmers et al., 2022): in 32 bits the training would "
        f"take {usual.memory.total / GB:.0f} GB."
    )
    return small


def _small_states(case: _Case, made: Recommendation) -> str:
    """The optimizer that plan/fit.py would change to; "" where it knows none."""
    job = _job(case, made.sections)
    for words, _ in single_changes(case.model.shapes, job, "train", case.machine.device):
        setting, _, value = words.partition(": ")
        if setting == "train.optim":
            return value
    return ""


def _largest_batch(case: _Case, wanted: _Training) -> Recommendation:
    """The largest batch that leaves a margin, without checkpointing where 4 rows do.

    Where none does, the smallest.
    """
    machine = case.machine
    most = min(wanted.effective, 4 if machine.kind == "cpu" else 8)
    least = min(most, LEAST_ROWS.get(case.goal.method, 1))
    batches = [2**power for power in range(most.bit_length() - 1, least.bit_length() - 2, -1)]
    tries = [(batch, False) for batch in batches if batch >= min(4, most)]
    tries += [(batch, True) for batch in batches]
    for batch, checkpointing in tries:
        made = _made(case, replace(wanted, batch=batch, checkpointing=checkpointing))
        if made.memory.total <= _COMFORTABLE * machine.usable:
            break
    return made


def _made(case: _Case, chosen: _Training) -> Recommendation:
    reasons: dict[str, str] = {}
    sections = {
        "model": _model_part(case, chosen.kind, reasons),
        "data": _data_part(case, chosen, reasons),
        "train": _train_part(case, chosen, reasons),
        **_behind(case, chosen.kind, reasons),
    }
    job = _job(case, sections)
    phases = phases_of(case.model.shapes, job, case.machine.device)
    peak = max(phases, key=lambda name: phases[name].total)
    memory = phases[peak]
    fits = memory.total <= case.machine.usable
    need = f"about {memory.total / GB:.1f} of {case.machine.usable / GB:.1f} GB"
    reasons["/train/per_device_train_batch_size"] = (
        f"The training then takes {need}." if fits else f"Even this does not fit: {need}."
    )
    return Recommendation(chosen.kind, sections, reasons, memory, peak, fits)


def _job(case: _Case, sections: dict[str, Any]) -> Job:
    """As plan/fits.py counts it: only a GPU with memory of its own has a host's beside it."""
    return replace(Job.of(as_recipe(sections)), pages=case.machine.kind == "gpu")


def as_recipe(sections: dict[str, Any]) -> Recipe:
    """The sections as a frozen recipe, every default filled in; of no particular files."""
    model = {"hub": "some/model", **sections.get("model", {})}
    data = {"train": [{"path": "rows", "format": "text"}], **sections.get("data", {})}
    whole = {"name": "x", **sections, "model": model, "data": data}
    whole.pop("ollama", None)  # it lacks a name, and trains nothing
    filled = fill_defaults(whole, load_schema())
    return build(filled, Source(path=Path("x.yaml"), data=whole))


def _lasting(train: dict[str, Any]) -> dict[str, Any]:
    """A training of some length, which every recipe has."""
    return train | {"num_train_epochs": 1}


def _dtype(machine: Machine, kind: str) -> str:
    return "float32" if machine.kind == "cpu" and kind != "qlora" else "bfloat16"


# --- numbers


def _max_length(case: _Case, given: int | None) -> int:
    if given is not None:
        return given
    needed, longest = longest_tokens(case.data) + _room(case.goal), LENGTHS[-1]
    fitting = next((length for length in LENGTHS if length >= needed), longest)
    return min(fitting, case.model.shapes.context or longest)


def _room(goal: Goal) -> int:
    """Tokens for answers that the model gives while it learns."""
    return COMPLETION if METHODS[goal.method].generates else 0


def longest_tokens(data: DataFacts) -> int:
    """Of the longest row, on the large side for English."""
    return data.longest // _BYTES_PER_TOKEN + _TEMPLATE_TOKENS


def _rank(case: _Case) -> int:
    for rank in RANKS:
        if _capacity(case.model, rank) >= _to_learn(case):
            break
    return rank


def _effective_batch(case: _Case) -> int:
    """Rows of a step: 16, or as few that an epoch has 8 steps. A power of two.

    Where answers to each are drawn, those of up to 8 rows are a step.
    """
    most = max(1, case.data.rows // 8)
    rows = min(EFFECTIVE_BATCH, 1 << (most.bit_length() - 1))
    return GENERATIONS * min(8, rows) if METHODS[case.goal.method].generates else rows


def _epochs(case: _Case) -> tuple[int, str]:
    data = case.data
    if case.goal.method in RATES and case.goal.method not in IMITATING:
        return passes(data.rows)
    if case.goal.method == "pretrain":
        return 1, "Texts are read once: what is read again is learnt by heart."
    if data.rows <= 10_000:
        return 3, "Three passes, usual for instructions (Alpaca, Taori et al., 2023)."
    if data.rows <= 100_000:
        return 2, "With so many rows a third pass adds little."
    return 1, "With so many rows a second pass adds little."


def _learning_rate(kind: str, case: _Case) -> tuple[float, str]:
    model = case.model
    if case.goal.method in RATES:
        rate = RATES[case.goal.method]
        small = " So small a model often needs more." if model.parameters < SMALL else ""
        return (rate.full if kind == "full" else rate.adapter), rate.source + small
    if kind == "full":
        return 2e-5, "A tenth of LoRA's, as for Alpaca (Taori et al., 2023)."
    if model.parameters >= LARGE:
        return 1e-4, "QLoRA's for 33B and 65B (Dettmers et al., 2023); half of the smaller ones'."
    if model.parameters < SMALL:
        return 2e-4, (
            "QLoRA's for 7B, the smallest of the paper (Dettmers et al., 2023). So small a model "
            "often learns more from 5e-4 or 1e-3: compare their losses."
        )
    return 2e-4, "QLoRA's for 7B and 13B (Dettmers et al., 2023)."


def _held_out_fraction(rows: int) -> float:
    if rows < MIN_ROWS_TO_EVALUATE:
        return 0.0
    return float(f"{min(0.1, MOST_HELD_OUT / rows):.1g}")


# --- the sections


def _model_part(case: _Case, kind: str, reasons: dict[str, str]) -> dict[str, Any]:
    part: dict[str, Any] = {"dtype": _dtype(case.machine, kind), "attn_implementation": "sdpa"}
    reasons["/model/dtype"] = (
        "Few processors are quick in bfloat16."
        if part["dtype"] == "float32"
        else "As most models are published: half of float32's memory, and its range."
    )
    if kind == "qlora":
        part["quantization"] = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        }
        reasons["/model/quantization/bnb_4bit_quant_type"] = (
            "Better than fp4 wherever the paper compares them (Dettmers et al., 2023)."
        )
    return part


def _data_part(case: _Case, chosen: _Training, reasons: dict[str, str]) -> dict[str, Any]:
    fraction = _held_out_fraction(case.data.rows)
    needed = longest_tokens(case.data) + _room(case.goal)
    reasons["/data/validation"] = (
        f"{case.data.rows} rows are too few to hold some out, so nothing is evaluated."
        if fraction == 0
        else "A tenth, as usual."
        if fraction == 0.1
        else f"About {MOST_HELD_OUT:,} rows tell two models apart; more would only take time."
    )
    reasons["/data/max_length"] = (
        f"The longest row has {case.data.longest:,} bytes of text: {needed:,} tokens at most, by a "
        f"guess of {_BYTES_PER_TOKEN} bytes a token."
    )
    if room := _room(case.goal):
        reasons["/data/max_length"] += f" Of these, {room} are for the model's own answer."
    if chosen.length < needed:
        reasons["/data/max_length"] += " That may be more than this, and would then be an error."
    reasons["/data/too_long"] = "An error shows it; the others change the data in silence."
    return {"validation": {"fraction": fraction}, "max_length": chosen.length, "too_long": "error"}


def _train_part(case: _Case, chosen: _Training, reasons: dict[str, str]) -> dict[str, Any]:
    epochs, why_epochs = _epochs(case)
    rate, why_rate = _learning_rate(chosen.kind, case)
    each = GENERATIONS if METHODS[case.goal.method].generates else 1
    steps = max(1, case.data.rows * epochs * each // chosen.effective)
    reasons |= {
        "/train/num_train_epochs": why_epochs,
        "/train/gradient_accumulation_steps": (
            f"{chosen.effective} {'answers' if each > 1 else 'rows'} a step"
            + (
                f": to {chosen.effective // each} questions, {each} each."
                if each > 1
                else ", as in the QLoRA paper."
                if chosen.effective == EFFECTIVE_BATCH
                else f": with {case.data.rows} rows, more would leave too few steps."
            )
        ),
        "/train/learning_rate": why_rate,
        "/train/warmup_steps": f"About 3 % of {steps:,} steps, as for Alpaca.",
        "/train/bf16": (
            "Few processors are quick in bfloat16."
            if case.machine.kind == "cpu"
            else "A GPU is several times faster in it; what learns stays in float32."
        ),
        "/train/gradient_checkpointing": (
            "Without it the activations would not fit."
            if chosen.checkpointing
            else "Everything fits without it."
        ),
    }
    return {
        "method": case.goal.method,
        **own_settings(case.goal.method, case.data, reasons),
        "adapter": _adapter_part(case, chosen, reasons),
        **({"optim": chosen.optim} if chosen.optim else {}),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": chosen.batch,
        "gradient_accumulation_steps": chosen.effective // chosen.batch,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(0.03 * steps),
        "bf16": case.machine.kind != "cpu",
        "gradient_checkpointing": chosen.checkpointing,
    }


def _adapter_part(case: _Case, chosen: _Training, reasons: dict[str, str]) -> dict[str, Any]:
    if chosen.kind == "full":
        return {"type": "none"}
    held = _count(_capacity(case.model, chosen.rank))
    reasons["/train/adapter/r"] = (
        f"Such an adapter holds about {held} tokens, and the data has about "
        f"{_count(case.data.tokens)} (Schulman et al., 2025)."
        if case.goal.method in IMITATING
        else f"Such an adapter holds about {held} bits, and each of the "
        f"{_count(case.data.rows)} rows tells about one (Schulman et al., 2025)."
    )
    reasons["/train/adapter/lora_alpha"] = "Twice r, the usual scale."
    drops = case.goal.method in ("sft", "pretrain")
    reasons["/train/adapter/lora_dropout"] = (
        "As in the QLoRA paper for large models."
        if drops
        else "None: its noise would pass for a difference between answers."
    )
    reasons["/train/adapter/target_modules"] = (
        "All linear layers: attention alone is worse, even with as many parameters (Dettmers "
        "et al., 2023; Schulman et al., 2025)."
    )
    return _adapter(chosen.rank, 0.05 if drops else 0.0)


def _adapter(rank: int, dropout: float = 0.0) -> dict[str, Any]:
    return {
        "type": "lora",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": dropout,
        "target_modules": "all-linear",
    }


def _behind(case: _Case, kind: str, reasons: dict[str, str]) -> dict[str, Any]:
    """What comes behind the training, where the goal wants it and there is something to do."""
    made: dict[str, Any] = {}
    held_out = int(case.data.rows * _held_out_fraction(case.data.rows))
    if held_out:
        silent = case.data.format == "text" or case.goal.method == "reward"
        made["evaluate"] = {"loss": True, "samples": 0 if silent else min(8, held_out)}
    if kind != "full":
        made["merge"] = {"base": "original", "dtype": "bfloat16"}
        if kind == "qlora":
            reasons["/merge/base"] = "Into the 16-bit weights, not into their copy in 4 bits."
    types, why = _gguf_types(case.model)
    made["gguf"] = {"quantize": types}
    reasons["/gguf/quantize"] = why
    made["ollama"] = {"parameters": {"temperature": 0.2}}
    made["benchmark"] = {"runs": 3}
    return {name: part for name, part in made.items() if name in case.goal.sections}


def _gguf_types(model: ModelFacts) -> tuple[list[str], str]:
    shapes = model.shapes
    if shapes.hidden % 256 or shapes.intermediate % 256:
        return [
            "Q8_0"
        ], "K-quants pack 256 values of a row, which this model's rows do not divide into."
    if model.parameters < 10**9:
        return ["Q8_0"], "The model is small anyway, and small models lose most in fewer bits."
    if model.parameters >= LARGE:
        size = model.parameters * 4.85 / 8 / GB
        return ["Q4_K_M"], f"About {size:.0f} GB, and speed goes with size: docs/quantisation.md."
    return ["Q4_K_M", "Q8_0"], "A small one to deploy, and one that is near the original."


def _count(number: int) -> str:
    """A number as people say it: 135M, 8.0B, 12k."""
    for power, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= power:
            value = number / power
            return f"{value:.1f}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return str(number)
