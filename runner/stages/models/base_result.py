"""What other recipes gave, as the model that a recipe starts from (`model: {recipe: …}`), or as the
one that scores its answers (`reward: {recipe: …}`).

`fetch` is handed the outputs of that recipe's last stage under the name `BASE`, as if it were a
stage of its own chain; `fetch_reward` is handed those of `train` and `fetch` of the other one. So
their keys have the content of the result, and not the way to it: recipes whose trainings give the
same bytes share what is made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

BASE = "base"
SCORER, BELOW_SCORER = "reward", "reward_base"  # what is trained, and the model below an adapter
MODEL = "model/*"  # of the outputs


def starts_from_recipe(recipe: Recipe) -> bool:
    """Is there another recipe to run first? Not where a bundle holds what it gave."""
    if recipe.base is None:
        return False
    return recipe.given is None or not recipe.given.holds("fetch")


def scored_by_recipe(recipe: Recipe) -> bool:
    """Is there a recipe of a reward model to run first? Not where a bundle holds what it gave."""
    if recipe.scorer is None:
        return False
    return recipe.given is None or not recipe.given.holds("fetch_reward")


def last_stage(recipe: Recipe) -> str:
    """The stage that gives what another recipe starts from, or is scored by."""
    whole = recipe.train.adapter.type == "none" or recipe.train.method == "reward"
    return "train" if whole else "merge"


def given_stages(recipe: Recipe) -> dict[str, str]:
    """Stages of a recipe whose outputs another one is handed -> the names it has for them."""
    if recipe.train.method == "reward":
        return {"train": SCORER, "fetch": BELOW_SCORER}
    return {last_stage(recipe): BASE}
