"""The shrunken twin of a recipe (`--shrink`): the same stages on a small random model.

What differs is listed in `Recipe.shrink` by JSON pointer, so that `show` and run.json can say it.
Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runner.recipe.base_recipe import POINTER, SCORER, with_base, with_scorer
from runner.recipe.compared_recipes import POINTER as COMPARED
from runner.recipe.compared_recipes import with_compared
from runner.recipe.methods import PROMPTS
from runner.recipe.model import build

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

SUFFIX = "-shrink"
MAX_NAME = 63  # of the schema
MAX_MODEL = 80  # characters of a model's name in Ollama
MAX_STEPS = 8
MAX_WARMUP = 2
MAX_LENGTH = 512  # tokens
MAX_ANSWER = 64  # tokens of an answer that is learnt from

HELP = (
    "the same stages on a small random model of the same architecture: a minute on a CPU, to see "
    "that everything fits before the real run"
)
NOTICE = (
    "shrunken: a small random model of the same architecture; perplexity increase and smoke answer "
    "are recorded and not required"
)


def shrink_recipe(recipe: Recipe) -> Recipe:
    """The twin of `recipe`. Its keys differ from the recipe's, so the two share no model."""
    resolved = recipe.resolved()
    changed: dict[str, Any] = {}
    base = None if recipe.base is None else shrink_recipe(recipe.base)
    scorer = None if recipe.scorer is None else shrink_recipe(recipe.scorer)
    for change in (_names, _training, _lengths):
        change(resolved, lambda pointer, value: _put(resolved, changed, pointer, value))
    twin = build(resolved, recipe.source)
    if base is not None:
        twin = with_base(twin, base)
    if scorer is not None:
        twin = with_scorer(twin, scorer)
    compared = tuple(map(shrink_recipe, recipe.compared))
    twin = with_compared(twin, compared)
    beside = [(f"{COMPARED}/{number}", each) for number, each in enumerate(compared)]
    for place, inner in ((POINTER, base), (SCORER, scorer), *beside):
        if inner is not None:
            changed |= {f"{place}{at}": value for at, value in (inner.shrink or {}).items()}
    return dataclasses.replace(twin, shrink=changed)


def shrunken_as(recipe: Recipe, changed: Mapping[str, Any] | None) -> Recipe:
    """`recipe`, which is a twin already, with what `--shrink` changed in it; None: nothing."""
    if changed is None:
        return recipe

    def inner(place: str, each: Recipe | None) -> Recipe | None:
        below = {
            at.removeprefix(place): value
            for at, value in changed.items()
            if at.startswith(f"{place}/")
        }
        return None if each is None else shrunken_as(each, below)

    base, scorer = inner(POINTER, recipe.base), inner(SCORER, recipe.scorer)
    beside = (inner(f"{COMPARED}/{number}", each) for number, each in enumerate(recipe.compared))
    compared = tuple(each for each in beside if each is not None)
    return dataclasses.replace(recipe, base=base, scorer=scorer, compared=compared, shrink=changed)


_Put = Callable[[str, Any], None]


def _put(resolved: dict[str, Any], changed: dict[str, Any], pointer: str, value: Any) -> None:
    *path, last = pointer[1:].split("/")
    section = resolved
    for name in path:
        section = section[name]
    if section.get(last) != value:
        changed[pointer] = value
        section[last] = value


def _names(resolved: dict[str, Any], put: _Put) -> None:
    put("/name", resolved["name"][: MAX_NAME - len(SUFFIX)] + SUFFIX)
    if resolved.get("ollama") is not None:
        name, colon, tag = resolved["ollama"]["name"].partition(":")
        *places, model = name.split("/")
        model = model[: MAX_MODEL - len(SUFFIX)] + SUFFIX
        put("/ollama/name", "/".join([*places, model]) + colon + tag)


def _training(resolved: dict[str, Any], put: _Put) -> None:
    train = resolved["train"]
    train.pop("num_train_epochs", None)
    put("/train/max_steps", min(train.get("max_steps") or MAX_STEPS, MAX_STEPS))
    put("/train/warmup_steps", min(train["warmup_steps"], MAX_WARMUP))
    if "max_completion_length" in train:
        put("/train/max_completion_length", min(train["max_completion_length"], MAX_ANSWER))


def _lengths(resolved: dict[str, Any], put: _Put) -> None:
    """Rows that only the shorter length makes too long are cut or left out, not refused."""
    data = resolved["data"]
    if data["max_length"] > MAX_LENGTH:
        put("/data/max_length", MAX_LENGTH)
        if data["too_long"] == "error":
            prompts = any(file["format"] in PROMPTS for file in data["train"])
            put("/data/too_long", "drop" if prompts else "truncate")  # a prompt is never cut
