"""A new recipe, from what is asked for and what is recommended: plain data, then commented text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.recipe.creation.annotate import annotated, comment
from runner.recipe.creation.facts import (
    GB,
    DataFacts,
    Machine,
    ModelFacts,
    days_on_a_processor,
    longest_tokens,
)
from runner.recipe.creation.goals import GOALS
from runner.recipe.creation.recommend import Recommendation, recommend
from runner.recipe.load import check_content
from runner.recipe.source import parse_source
from runner.recipe.versions import newest
from runner.report.diagnostic import Diagnostic, has_errors

SLOW = 1.0  # days
METHOD_NAMES = {
    "pretrain": "continued pre-training",
    "reward": "a reward model",
    "simpo": "SimPO",
    **{name: name.upper() for name in ("dpo", "orpo", "kto", "grpo")},
}
TUNINGS = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything that decides the text of a new recipe at `path` in the project `root`.

    `hardware`: what `recipe plan --hardware` calls the machine; "" for this one, or none it knows.
    """

    path: Path
    root: Path
    name: str
    goal: str  # of GOALS
    model: dict[str, Any]  # the section, in part
    model_facts: ModelFacts
    files: list[dict[str, str]]  # of data.train
    data: DataFacts
    machine: Machine
    system: str | None = None
    tuning: str | None = None
    max_length: int | None = None
    hardware: str = ""


def compose(wish: Wish) -> tuple[str, Recommendation]:
    """The recipe as text, and what was recommended. Raises recommend.FitsNowhere."""
    goal = GOALS[wish.goal]
    made = recommend(
        goal,
        wish.model_facts,
        wish.data,
        wish.machine,
        tuning=wish.tuning,
        max_length=wish.max_length,
    )
    parts = made.sections
    system = {} if wish.system is None else {"system": wish.system}
    data: dict[str, Any] = {
        "schema": newest().number,
        "name": wish.name,
        "description": _description(wish, made),
        "seed": 42,
        "model": wish.model | parts["model"],
        "data": {"train": wish.files, **system, **parts["data"]},
        "train": {"backend": "native", **parts["train"]},
        **{name: part for name, part in parts.items() if name not in ("model", "data", "train")},
    }
    if "ollama" in data:
        data["ollama"] = {"name": wish.name, **data["ollama"]}
    head = "\n".join(_head(wish, made))
    return f"{head}\n{annotated(data, newest().resolved(), made.reasons)}", made


def check(text: str, path: Path) -> list[Diagnostic]:
    """What is said about the recipe `text` once it is at `path`. Raises RecipeInvalid."""
    recipe, found = check_content(lambda: parse_source(text.encode(), path))
    if recipe is None or has_errors(found):
        raise RecipeInvalid(found)
    return found


def slowness(wish: Wish, made: Recommendation) -> str:
    """What to know of a training that takes days without a GPU; "" for any other."""
    if wish.machine.kind != "cpu":
        return ""
    epochs = float(made.sections["train"].get("num_train_epochs", 1))
    days = days_on_a_processor(wish.model_facts, wish.data, epochs)
    if days < SLOW:
        return ""
    return (
        f"without a GPU this takes about {days:.0f} days on two cores, by arithmetic; more cores "
        "take less, a smaller model or fewer rows, too"
    )


def too_long_for(wish: Wish) -> str:
    """What to know of a --max-length that rows may exceed; "" when none does, or none is given."""
    needed = longest_tokens(wish.data)
    if wish.max_length is None or wish.max_length >= needed:
        return ""
    return (
        f"the longest row may have {needed:,} tokens, more than --max-length {wish.max_length:,}: "
        "data.too_long says what becomes of it, and error stops there"
    )


def slug(text: str) -> str:
    """A recipe's name from any words."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return plain[:63].rstrip("-._") or "recipe"


def _description(wish: Wish, made: Recommendation) -> str:
    names = [Path(file["path"]).name for file in wish.files]
    rows = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    to = ", to a model that answers in Ollama" if "ollama" in made.sections else ""
    method = GOALS[wish.goal].method
    by = "" if method == "sft" else f", {METHOD_NAMES[method]}"
    return f"{TUNINGS[made.tuning]} of {wish.model_facts.name}{by} on {rows}{to}."


def _head(wish: Wish, made: Recommendation) -> Iterator[str]:
    folder = wish.path.resolve().parent
    schema = os.path.relpath(wish.root / "schemas" / f"recipe-{newest().number}.json", folder)
    yield f"# yaml-language-server: $schema={schema}"
    yield f"# Run it:  {_command(wish)}"
    yield "#"
    yield from comment(
        f"Written by `recipe new` for {wish.machine}: {GOALS[wish.goal].what}. Change what you "
        "know better; `recipe validate` checks it, docs/recipe.md has every field."
    )
    yield "#"
    yield from _memory(wish, made)
    if slow := slowness(wish, made):
        yield "#"
        yield from comment(f"{slow[0].upper()}{slow[1:]}.")
    yield ""


def _command(wish: Wish) -> str:
    path = os.path.relpath(wish.path.resolve(), wish.root)
    if not (wish.root / "compose.yaml").is_file():
        return f"recipe run {path}"
    gpu = "" if wish.machine.kind == "cpu" else " -f compose.yaml -f compose.gpu.yaml"
    return f"docker compose{gpu} run --rm recipe run {path}"


def _memory(wish: Wish, made: Recommendation) -> Iterator[str]:
    """The memory, part by part."""
    facts, machine = wish.model_facts, wish.machine
    of = facts.where if facts.exact else "models of its size"
    total = made.memory.total / GB
    verdict = "fits" if made.fits else "DOES NOT FIT"
    yield from comment(
        f"Memory of the training, by arithmetic on the shapes of {of} and not by measurement: "
        f"about {total:.1f} GB at the peak ({made.peak}), which {verdict} into the "
        f"{machine.usable / GB:.1f} GB that "
        f"{machine} can plan with."
    )
    for item in made.memory.items:
        yield f"#   {item.bytes / GB:8.2f} GB  {item.name}"
