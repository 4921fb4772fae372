"""Which method for which model on a Spark, beside the course's table (docs/course/10.1-methods.md).

usage: python -m runner.report.method_page > docs/course/10.1-methods.md

Every number is what `recipe new` recommends and `recipe plan` counts: no weight, no GPU is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from runner.plan.fit import peak_of
from runner.plan.job import Job
from runner.plan.published_models import FOLDER
from runner.plan.shapes import shapes_of
from runner.plan.trained import trained_parameters
from runner.recipe.creation.facts import GB, DataFacts, Machine, ModelFacts, shapes_of_size
from runner.recipe.creation.goals import GOALS
from runner.recipe.creation.recommend import FitsNowhere, Recommendation, recommend
from runner.recipe.creation.sections import as_recipe
from runner.report.markdown import table

SPARK = Machine("spark", 128 * GB)
TUNINGS = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
# Published configs, and sizes of which none is shipped.
MODELS: dict[str, str | int] = {
    "Llama 3.2 1B": "llama-3.2-1b",
    "Llama 3.2 3B": "llama-3.2-3b",
    "Mistral 7B": "mistral-7b-v0.3",
    "Llama 3.1 8B": "llama-3.1-8b",
    "Qwen3 8B": "qwen3-8b",
    "Phi-4 14B": "phi-4",
    "a 32B": 32 * 10**9,
    "Llama 3.1 70B": "llama-3.1-70b",
    "a 405B": 405 * 10**9,
}
USUAL = DataFacts("messages", rows=5000, longest=2800, total=10_000_000)
AMOUNTS = {
    "0.1 M tokens": DataFacts("messages", rows=300, longest=2800, total=300_000),
    "50 M tokens": DataFacts("messages", rows=75_000, longest=2800, total=150_000_000),
    "5 G tokens": DataFacts("messages", rows=7_500_000, longest=2800, total=15_000_000_000),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the course's table 10.1: its words, and the model that they are about."""

    method: str
    tuning: str
    share: str
    memory: str
    capability: str
    model: str
    ours: str  # where we differ, and why


TABLE = (
    Row(
        "Full fine-tuning",
        "full",
        "100 %",
        "very high",
        "up to 8B models",
        "Llama 3.1 8B",
        "the same, on one condition: AdamW's states are in 8 bits. What learns is float32 here, "
        "beside a gradient in float32; two states in 32 bits would take as much again as both "
        "together.",
    ),
    Row(
        "LoRA",
        "lora",
        "about 0.1 to 1 %",
        "low",
        "8B easily",
        "Llama 3.1 8B",
        "more fits, a 32B with a quarter of the memory to spare. At rank 16 on all linear layers "
        "the share is the course's; at rank 128, which only much data needs, it is four percent of "
        "an 8B.",
    ),
    Row(
        "QLoRA",
        "qlora",
        "about 0.1 to 1 %, base in 4 bits",
        "very low",
        "70B and more",
        "Llama 3.1 70B",
        "the same: a 70B leaves half of the memory. A 405B does not fit, not even in 4 bits.",
    ),
)

_HEAD = """# Which method for which model

Written by `python -m runner.report.method_page` from what `recipe new` recommends for a DGX Spark,
and held to it by a test. Nothing here was measured there. `recipe new` asks the same of your model,
data and machine and writes the reasons into the recipe; `recipe plan RECIPE --recommend` says what
it would choose for a recipe that you have."""

_MEANING = """Every weight learns only where the data is more than the largest adapter holds, and
then all of the memory that a training may use (85 % of the machine's) may be filled: nothing else
would hold the data. LoRA is chosen where a quarter of that memory stays free, for the numbers are
sums and not measurements; QLoRA where LoRA would not leave it. The rank is the smallest of 16, 32,
64 and 128 whose adapter holds the data at two bits a number and one bit a token (Schulman et al.,
LoRA Without Regret, 2025), for methods that compare answers one bit a row."""


def page() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        "## The course's table 10.1, with our numbers",
        "\n".join(_course()),
        "\n".join(f"- {row.method}: {row.ours}" for row in TABLE),
        "## Memory by method and model",
        "\n".join(_by_model()),
        "## What is recommended, by model and data",
        "\n".join(_by_data()),
        _MEANING,
    ]
    return "\n\n".join(parts) + "\n"


@cache
def facts(name: str) -> ModelFacts:
    """Of one of MODELS."""
    what = MODELS[name]
    if isinstance(what, int):
        return ModelFacts(name, shapes_of_size(what), exact=False)
    return ModelFacts(
        name, shapes_of(json.loads((FOLDER / f"{what}.json").read_bytes())), exact=True
    )


@cache  # nobody changes what is recommended
def asked(name: str, tuning: str | None, data: DataFacts = USUAL) -> Recommendation:
    """What we recommend on a Spark. Raises FitsNowhere."""
    return recommend(GOALS["chat"], facts(name), data, SPARK, tuning=tuning)


def least(name: str, tuning: str) -> int:
    """Bytes at the peak with one row of 1024 tokens at a time, and with checkpointing."""
    job = Job.of(as_recipe(asked(name, tuning).sections))
    return peak_of(facts(name).shapes, replace(job, batch=1, gradient_checkpointing=True))


def share(name: str, made: Recommendation) -> float:
    """The part of the model's numbers, in percent, that learns."""
    shapes = facts(name).shapes
    job = Job.of(as_recipe(made.sections))
    return 100 * trained_parameters(shapes, job.adapter) / shapes.parameters


def largest(tuning: str) -> str:
    """The largest of MODELS that this way of training fits."""
    return [name for name in MODELS if asked(name, tuning).fits][-1]


def _course() -> Iterator[str]:
    heads = ("method", "learns: course", "ours", "memory: course", "ours", "on a Spark: course",
             "the largest of ours")  # fmt: skip
    rows = []
    for row in TABLE:
        ours = f"{least(row.model, row.tuning) / GB:.1f} GB for {row.model}"
        learns = f"{share(row.model, asked(row.model, row.tuning)):.3g} %"
        rows.append(
            (row.method, row.share, learns, row.memory, ours, row.capability, largest(row.tuning))
        )
    yield from table(heads, rows)
    yield ""
    may = f"{SPARK.usable / GB:.1f} of {SPARK.memory / GB:.0f} GB"
    yield f"A training may use {may}. Where we differ:"


def _by_model() -> Iterator[str]:
    rows = [(name, *(_cell(name, tuning) for tuning in TUNINGS)) for name in MODELS]
    yield from table(("GB at the peak", *TUNINGS.values()), rows)
    yield ""
    yield (
        "The least that a run takes, evaluation and `fidelity` included: trained one row of 1024 "
        "tokens at a time, with checkpointing. "
        "8 bits: with `train.optim: adamw_8bit`, where AdamW in 32 bits does not fit. no: nor does "
        "that."
    )


def _cell(name: str, tuning: str) -> str:
    made, words = asked(name, tuning), f"{least(name, tuning) / GB:.1f}"
    words += ", 8 bits" if made.sections["train"].get("optim") else ""
    return words if made.fits else f"no ({words})"


def _by_data() -> Iterator[str]:
    rows = [(name, *(_chosen(name, data) for data in AMOUNTS.values())) for name in MODELS]
    yield from table(("the data has about", *AMOUNTS), rows)


def _chosen(name: str, data: DataFacts) -> str:
    try:
        made = asked(name, None, data)
    except FitsNowhere:
        return "nothing fits"
    rank = made.sections["train"]["adapter"].get("r")
    return TUNINGS[made.tuning] + (f", r {rank}" if rank else "")


if __name__ == "__main__":
    print(page(), end="")
