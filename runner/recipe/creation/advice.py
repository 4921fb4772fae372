"""What would be recommended in place of what a recipe has, by machine: method, rank, length.

The same arithmetic as for a new recipe, over the files that this one names. Reads them; writes
nothing, asks no network, builds no environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.errors import UsageError
from runner.plan.cost import known_shapes
from runner.plan.machines import Hardware
from runner.plan.published_models import facts_at_hand
from runner.recipe.creation.by_method import NothingToLearn
from runner.recipe.creation.facts import DataFacts, Machine, ModelFacts
from runner.recipe.creation.goals import GOALS
from runner.recipe.creation.inputs import facts_of_file, together
from runner.recipe.creation.recommend import FitsNowhere, Recommendation, recommend
from runner.recipe.model import Recipe
from runner.recipe.typed import how_to_get_sizes
from runner.report.printable import quoted

WORDS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}


@dataclass(frozen=True, slots=True)
class Choice:
    """`rank` None: no adapter, so that every weight learns. `length`: tokens of the longest row."""

    tuning: str
    rank: int | None
    length: int

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", r {self.rank}"
        return f"{WORDS[self.tuning]}{rank}, rows of {self.length} tokens"


@dataclass(frozen=True, slots=True)
class Advice:
    """For one machine: what the recipe has, what we would choose, and why by `what`.

    `ours` None: it fits there in no way; `reasons` then says by how much.
    """

    machine: str
    has: Choice
    ours: Choice | None
    reasons: dict[str, str]

    @property
    def another_method(self) -> bool:
        """Is it another way of training than the recipe's?"""
        return self.ours is not None and self.ours.tuning != self.has.tuning


def advise(recipe: Recipe, machines: Sequence[Hardware]) -> list[Advice]:
    """One a machine. Raises UsageError: E955 where what it depends on is not known here, E157 for
    rows that cannot be used."""
    data, model = _data(recipe), _model(recipe)
    return [_advice(recipe, model, data, Machine.of(each)) for each in machines]


def _advice(recipe: Recipe, model: ModelFacts, data: DataFacts, machine: Machine) -> Advice:
    goal = next(each for each in GOALS.values() if each.method == recipe.train.method)
    has = _choice_of(recipe)
    try:
        made = recommend(goal, model, data, machine)
    except FitsNowhere as error:
        return Advice(str(machine), has, None, {"method": f"Nothing fits: even {error}."})
    except NothingToLearn as error:
        raise _unknown(error.what, error.hint) from error
    return Advice(str(machine), has, _choice(made), _reasons(made))


def _choice_of(recipe: Recipe) -> Choice:
    adapter = recipe.train.adapter
    length = recipe.data.max_length
    if adapter.type == "none":
        return Choice("full", None, length)
    return Choice("qlora" if recipe.model.quantization else "lora", adapter.r, length)


def _choice(made: Recommendation) -> Choice:
    parts: dict[str, Any] = made.sections
    return Choice(made.tuning, parts["train"]["adapter"].get("r"), parts["data"]["max_length"])


def _reasons(made: Recommendation) -> dict[str, str]:
    pointers = {
        "method": "/train/adapter",
        "optimizer": "/train/optim",
        "rank": "/train/adapter/r",
        "length": "/data/max_length",
    }
    return {
        what: made.reasons[pointer] for what, pointer in pointers.items() if pointer in made.reasons
    }


def _model(recipe: Recipe) -> ModelFacts:
    facts = facts_at_hand(recipe)
    shapes, unknown = known_shapes(recipe, facts)
    if shapes is None:
        hint = f"{how_to_get_sizes(recipe)}, which asks the hub for the model's sizes"
        raise _unknown(f"how large the model is: {unknown}", hint)
    return ModelFacts(recipe.name, shapes, exact=True)


def _data(recipe: Recipe) -> DataFacts:
    if recipe.train.method not in {goal.method for goal in GOALS.values()}:
        told = f"what suits method {recipe.train.method}, which depends on its reward model as well"
        raise _unknown(told, "docs/methods.md has its settings")
    found = []
    for file in recipe.data.train:
        if file.path is None:
            told = f"how much data {quoted(file.name, 80)} has: it is not a file of this disk"
            raise _unknown(told, "put the file beside the recipe, and name it by path")
        found.append(_cut(facts_of_file(recipe.resolve(file.path), file), file.limit))
    return together(found)


def _cut(facts: DataFacts, limit: int | None) -> DataFacts:
    """As much of it as data.train.limit takes."""
    if limit is None or limit >= facts.rows:
        return facts
    return replace(facts, rows=limit, total=round(facts.total * limit / facts.rows))


def _unknown(what: str, hint: str) -> UsageError:
    return UsageError(f"nothing can be recommended, for it is not known {what}", hint=hint,
                      code="E955")  # fmt: skip
