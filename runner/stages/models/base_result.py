"""What another recipe gave, as the model that a recipe starts from (`model: {recipe: …}`).

`fetch` is handed the outputs of that recipe's last stage under the name `BASE`, as if it were a
stage of its own chain. So its key has the content of the result, and not the way to it: recipes
whose trainings give the same bytes share what is made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

BASE = "base"
MODEL = "model/*"  # of the outputs


def starts_from_recipe(recipe: Recipe) -> bool:
    """Is there another recipe to run first? Not where a bundle holds what it gave."""
    if recipe.base is None:
        return False
    return recipe.given is None or not recipe.given.holds("fetch")


def last_stage(recipe: Recipe) -> str:
    """The stage that gives what another recipe starts from."""
    return "train" if recipe.train.adapter.type == "none" else "merge"
