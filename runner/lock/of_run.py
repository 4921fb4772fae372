"""The lock in a run's folder: the recipe as it was run, with every input pinned, to be run again.

Its paths start at the run's folder, so that `recipe run runs/NAME/ID/recipe.lock.yaml` finds the
files that the recipe named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.lock.file import as_text
from runner.lock.locking import make_lock
from runner.recipe.compared_recipes import alone
from runner.recipe.model import build
from runner.recipe.paths import replace_paths
from runner.recipe.source import Source
from runner.store.atomic import write_atomic

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs

FILE = "recipe.lock.yaml"
HEAD = (
    "# The recipe of this run, every input pinned. To do it again: recipe run recipe.lock.yaml",
    "# Its paths start here.",
)


def write_run_lock(recipe: Recipe, fetched: Mapping[str, Outputs], folder: Path) -> None:
    """Write FILE into the run's `folder`. `fetched`: outputs by stage, `fetch` among them.

    What the recipe is compared with is left out: it is no input of the run.

    Raises OSError.
    """
    path = folder / FILE
    resolved = moved(alone(recipe), folder)
    again = build(resolved, Source(path=path, data=resolved))
    write_atomic(path, as_text(make_lock(again, lambda _: fetched), HEAD))


def moved(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The resolved recipe with its relative paths as seen from `folder`."""
    return replace_paths(recipe, lambda _, text: _seen_from(folder, recipe.resolve(text)))


def _seen_from(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder.resolve())).as_posix()
