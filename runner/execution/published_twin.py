"""A shrunken twin without the hub: of the sizes that a model's publisher states.

The twin then starts from a folder in the cache with that config alone, which its run records as its
`model.path`. A tokenizer is made for it (scripts/shrink.py).
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from runner.plan.published_models import published_file
from runner.recipe.base_recipe import with_base, with_scorer
from runner.recipe.compared_recipes import POINTER as COMPARED
from runner.recipe.compared_recipes import all_recipes, with_compared
from runner.recipe.model import build
from runner.store.atomic import disk_errors, write_atomic
from runner.system.folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.errors import RecipeToolError
    from runner.recipe.model import Model, Recipe

NO_ACCESS = frozenset({"E316", "E319", "E829"})  # not let in, no answer, not to be asked
_OF_HUB = ("hub", "revision")


def without_hub(recipe: Recipe) -> Recipe:
    """`recipe` and those that it starts from, with published configs for their models of the hub.

    The same object where none of them is known. Raises MachineCannot on a full disk.
    """
    base = None if recipe.base is None else without_hub(recipe.base)
    scorer = None if recipe.scorer is None else without_hub(recipe.scorer)
    compared = tuple(map(without_hub, recipe.compared))
    same = base is recipe.base and scorer is recipe.scorer
    same = same and all(a is b for a, b in zip(compared, recipe.compared, strict=True))
    if same and not _is_known(recipe.model):
        return recipe
    resolved = recipe.resolved()
    if _is_known(recipe.model):
        model = resolved["model"]
        gone = (*_OF_HUB, "trust_remote_code")
        kept = {name: value for name, value in model.items() if name not in gone}
        resolved["model"] = {**kept, "path": str(_folder(recipe.model))}
    changed = build(resolved, recipe.source)
    changed = changed if base is None else with_base(changed, base)
    changed = changed if scorer is None else with_scorer(changed, scorer)
    return with_compared(changed, compared)


def recorded(twin: Recipe, stands_for: Recipe) -> Recipe:
    """`twin`, which says of itself that another model stands for the one that was asked for."""
    changed = dict(_changes(twin, stands_for, ""))
    return dataclasses.replace(twin, shrink={**(twin.shrink or {}), **changed})


def _changes(twin: Recipe, given: Recipe, place: str) -> Iterator[tuple[str, object]]:
    from runner.recipe.base_recipe import PLACES

    if twin.model.path != given.model.path:
        for name in (*_OF_HUB, "path"):
            yield f"{place}/model/{name}", getattr(twin.model, name)
    for at, name in PLACES.items():
        inner, other = getattr(twin, name), getattr(given, name)
        if inner is not None and other is not None:
            yield from _changes(inner, other, f"{place}{at}")
    for number, (inner, other) in enumerate(zip(twin.compared, given.compared, strict=True)):
        yield from _changes(inner, other, f"{COMPARED}/{number}")


def planned_twin(recipe: Recipe) -> Recipe:
    """The twin that a run would make of `recipe`, as far as nothing is to be written for it.

    A run that made it by published sizes has left them in the cache; where they are not there,
    nothing of it is stored either, and the twin still has its model of the hub.
    """
    from runner.recipe.base_recipe import innermost
    from runner.recipe.shrink import shrink_recipe

    known = [each.model for each in all_recipes(recipe) if _is_known(each.model)]
    published = recipe
    if is_closed(innermost(recipe).model) and all(map(_is_written, known)):
        published = without_hub(recipe)
    return recorded(shrink_recipe(published), recipe)


def suggest(error: RecipeToolError, recipe: Recipe) -> None:
    """Add to `error`, of a twin whose model the hub does not give, how it can be without."""
    if recipe.shrink is None or error.code not in NO_ACCESS or not _is_known(recipe.model):
        return
    path = shlex.quote(f"model.path={_folder(recipe.model)}")
    error.hint += (
        "; or make the twin of its published sizes: --shrink --set model.hub=null "
        f"--set model.revision=null --set {path}"
    )


def is_closed(model: Model) -> bool:
    """Is it known, without a question, that the hub would not give it to us?"""
    from runner.execution.lacks import GATED
    from runner.system.hub import find_token

    return (
        model.hub is not None
        and model.hub.startswith(GATED)
        and not os.environ.get("HF_ENDPOINT")  # a mirror may give it to anybody
        and find_token() is None
    )


def needs_hub(recipe: Recipe) -> bool:
    """Is the recipe's own model to come from the hub? A twin of a known one is made without it."""
    return recipe.shrink is None or not _is_known(recipe.model)


def _is_known(model: Model) -> bool:
    return model.file is None and published_file(model.hub) is not None


def _folder(model: Model) -> Path:
    """A folder with the config, in the cache."""
    source, folder = _places(model)
    if not _is_written(model):
        with disk_errors("writing a published config", folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "config.json", source.read_bytes())
    return folder


def _places(model: Model) -> tuple[Path, Path]:
    """The published config of a known model, and the folder for it."""
    source = published_file(model.hub)
    assert source is not None
    return source, cache_folder() / "published" / source.stem


def _is_written(model: Model) -> bool:
    source, folder = _places(model)
    try:
        return (folder / "config.json").read_bytes() == source.read_bytes()
    except OSError:
        return False
