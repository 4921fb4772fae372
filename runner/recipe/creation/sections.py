"""The sections of a recipe for what was chosen, each value with its reason and its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.plan.trained import trained_parameters
from runner.recipe.creation.by_method import (
    COMPLETION,
    GENERATIONS,
    IMITATING,
    RATES,
    own_settings,
    passes,
)
from runner.recipe.creation.facts import (
    BYTES_PER_TOKEN,
    GB,
    DataFacts,
    Machine,
    ModelFacts,
    count_in_words,
    longest_tokens,
)
from runner.recipe.creation.goals import Goal
from runner.recipe.methods import METHODS
from runner.recipe.model import Recipe, build
from runner.recipe.schema import fill_defaults, load_schema
from runner.recipe.source import Source

EFFECTIVE_BATCH = 16
LARGE = 30 * 10**9  # parameters from which the QLoRA paper halves the learning rate
SMALL = 3 * 10**9  # parameters below which its rate for 7B is no measurement any more
MOST_HELD_OUT = 1000  # rows: enough to tell two models apart, few enough to answer
MIN_ROWS_TO_EVALUATE = 10


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked."""

    goal: Goal
    model: ModelFacts
    data: DataFacts
    machine: Machine


@dataclass(frozen=True, slots=True)
class Training:
    """What is chosen: `kind` of tuning, rows of a forward pass and of a step."""

    kind: str
    rank: int
    length: int
    effective: int
    batch: int
    checkpointing: bool
    optim: str = ""  # not the usual one


def sections_of(case: Case, chosen: Training, reasons: dict[str, str]) -> dict[str, Any]:
    """Sections of the recipe as plain data; the reasons are put into `reasons`, by pointer."""
    return {
        "model": _model_part(case, chosen.kind, reasons),
        "data": _data_part(case, chosen, reasons),
        "train": _train_part(case, chosen, reasons),
        **_behind(case, chosen.kind, reasons),
    }


def as_recipe(sections: dict[str, Any]) -> Recipe:
    """The sections as a frozen recipe, every default filled in; of no particular files."""
    model = {"hub": "some/model", **sections.get("model", {})}
    data = {"train": [{"path": "rows", "format": "text"}], **sections.get("data", {})}
    whole = {"name": "x", **sections, "model": model, "data": data}
    whole.pop("ollama", None)  # it lacks a name, and trains nothing
    filled = fill_defaults(whole, load_schema())
    return build(filled, Source(path=Path("x.yaml"), data=whole))


def bits_to_learn(case: Case) -> int:
    """Bits that the data has to tell: one a token where it is imitated, else one a row."""
    return case.data.tokens if case.goal.method in IMITATING else case.data.rows


def capacity(model: ModelFacts, rank: int) -> int:
    """Tokens that an adapter can hold: two bits a number, one bit a token."""
    train = {"adapter": _adapter(rank), "num_train_epochs": 1}  # of whatever length
    adapter = as_recipe({"train": train}).train.adapter
    return 2 * trained_parameters(model.shapes, adapter)


def room_for_answers(goal: Goal) -> int:
    """Tokens for answers that the model gives while it learns."""
    return COMPLETION if METHODS[goal.method].generates else 0


def _model_part(case: Case, kind: str, reasons: dict[str, str]) -> dict[str, Any]:
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


def _data_part(case: Case, chosen: Training, reasons: dict[str, str]) -> dict[str, Any]:
    fraction = _held_out_fraction(case.data.rows)
    needed = longest_tokens(case.data) + room_for_answers(case.goal)
    reasons["/data/validation"] = (
        f"{case.data.rows} rows are too few to hold some out, so nothing is evaluated."
        if fraction == 0
        else "A tenth, as usual."
        if fraction == 0.1
        else f"About {MOST_HELD_OUT:,} rows tell two models apart; more would only take time."
    )
    reasons["/data/max_length"] = (
        f"The longest row has {case.data.longest:,} bytes of text: {needed:,} tokens at most, by a "
        f"guess of {BYTES_PER_TOKEN} bytes a token."
    )
    if room := room_for_answers(case.goal):
        reasons["/data/max_length"] += f" Of these, {room} are for the model's own answer."
    if chosen.length < needed:
        reasons["/data/max_length"] += " That may be more than this, and would then be an error."
    reasons["/data/too_long"] = "An error shows it; the others change the data in silence."
    return {"validation": {"fraction": fraction}, "max_length": chosen.length, "too_long": "error"}


def _train_part(case: Case, chosen: Training, reasons: dict[str, str]) -> dict[str, Any]:
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


def _adapter_part(case: Case, chosen: Training, reasons: dict[str, str]) -> dict[str, Any]:
    if chosen.kind == "full":
        return {"type": "none"}
    held = count_in_words(capacity(case.model, chosen.rank))
    reasons["/train/adapter/r"] = (
        f"Such an adapter holds about {held} tokens, and the data has about "
        f"{count_in_words(case.data.tokens)} (Schulman et al., 2025)."
        if case.goal.method in IMITATING
        else f"Such an adapter holds about {held} bits, and each of the "
        f"{count_in_words(case.data.rows)} rows tells about one (Schulman et al., 2025)."
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


def _behind(case: Case, kind: str, reasons: dict[str, str]) -> dict[str, Any]:
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


def _epochs(case: Case) -> tuple[int, str]:
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


def _learning_rate(kind: str, case: Case) -> tuple[float, str]:
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


def _dtype(machine: Machine, kind: str) -> str:
    return "float32" if machine.kind == "cpu" and kind != "qlora" else "bfloat16"
