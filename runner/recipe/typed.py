"""A recipe as a command names it: its file and what `--set` says of it, as a shell takes them.

A hint that left the options out would be about another recipe than the one that it is said of.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import RecipeInvalid
from runner.recipe.overrides import OPTION
from runner.recipe.source import parse_source

if TYPE_CHECKING:
    from runner.recipe.model import Recipe


def typed(recipe: Recipe) -> str:
    """The file, and `--set NAME=VALUE` for each value that an option gave."""
    options = [
        word
        for name, value in recipe.source.overrides.items()
        for word in (OPTION, f"{name}={_as_yaml(value)}")
    ]
    return shlex.join([str(recipe.source.path), *options])


def how_to_get_sizes(recipe: Recipe) -> str:
    """What brings the sizes of the recipe's model: a lock, which is of a recipe as written."""
    file = shlex.quote(str(recipe.source.path))
    other = [name for name in recipe.source.overrides if name.split(".")[0] == "model"]
    if not other:
        return f"run `recipe lock {file}`"
    return (
        f"`recipe lock` takes no {OPTION}: write {' and '.join(other)} into a recipe with "
        f"`extends: {file}` and lock that one"
    )


def _as_yaml(value: Any) -> str:
    """On one line; a text without quotes where it is read as the same text so."""
    if isinstance(value, str) and _read(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _read(text: str) -> Any:
    try:
        source = parse_source(text.encode("utf-8", "surrogatepass"), Path(OPTION))
    except RecipeInvalid:
        return None
    return None if source.problems else source.data
