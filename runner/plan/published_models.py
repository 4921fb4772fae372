"""Sizes of well-known models of the hub, by name: a plan before anything was asked or downloaded.

data/published has their configs, written from what their publishers state; a test holds them to the
publishers' counts of parameters. A repository can change: a lock's or a stored model's own config
comes first, and only estimates are made of these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from runner.recipe.base_recipe import innermost
from runner.recipe.model_facts import Facts, known_facts

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

FOLDER = Path(__file__).parent / "data" / "published"


def facts_at_hand(recipe: Recipe) -> Facts | None:
    """The facts of the recipe's model, else what was published of it; None: neither is known."""
    return known_facts(recipe) or published_facts(recipe)


def published_facts(recipe: Recipe) -> Facts | None:
    """The published sizes of the recipe's model; None when they are not known here."""
    repository = innermost(recipe).model.hub
    repositories: dict[str, str] = json.loads((FOLDER / "repositories.json").read_bytes())
    if repository is None or repository not in repositories:
        return None
    config = json.loads((FOLDER / f"{repositories[repository]}.json").read_bytes())
    return Facts(config, f"published sizes of {repository}; `recipe lock` reads its own")
