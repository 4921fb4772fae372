"""The recipes that a recipe is compared with (`compare.recipes`): read and checked when it is.

They are run beside it, and decide no byte of it. In its resolved form the recipes themselves stand
in the place of their paths. A recipe that is named by another one is compared with nothing: the
pages of others are their own runs'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.recipe.base_recipe import Check, as_seen_from, read_recipe, recipes_of
from runner.recipe.finding import Finding
from runner.report.printable import quoted

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.recipe.source import Source
    from runner.report.diagnostic import Diagnostic

SECTION = "compare"
POINTER = "/compare/recipes"


def read_compared(
    source: Source, above: tuple[Path, ...], check: Check
) -> tuple[list[Recipe | None], list[Diagnostic]]:
    """The recipes that `source`, sound in this section, is compared with; None for one that has an
    error. And what is wrong with them. Reads files; no network."""
    recipes: list[Recipe | None] = []
    found: list[Diagnostic] = []
    for place in places(source):
        inner, said = read_recipe(source, place, above, check)
        recipes.append(inner)
        found += said
    return recipes, found + [each.diagnostic(source) for each in _named_twice(source, recipes)]


def places(source: Source) -> list[str]:
    """Where the recipe names others to compare it with."""
    section = source.data.get(SECTION) if isinstance(source.data, dict) else None
    named = section.get("recipes") if isinstance(section, dict) else None
    count = len(named) if isinstance(named, list) else 0
    return [f"{POINTER}/{number}" for number in range(count)]


def _named_twice(source: Source, recipes: list[Recipe | None]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for place, recipe in zip(places(source), recipes, strict=True):
        if recipe is None:
            continue
        if recipe.name in seen:
            message = f"{_shown(source, place)} has the name of another one: {quoted(recipe.name)}"
            if source.at(place) == source.at(seen[recipe.name]):
                message = f"{_shown(source, place)} is named twice"
            yield Finding("E284", place, message, "name each recipe once")
        seen.setdefault(recipe.name, place)


def _shown(source: Source, place: str) -> str:
    given = source.at(place)
    return quoted(given if isinstance(given, str) else str(given.get("name")), 80)


def all_recipes(recipe: Recipe) -> Iterator[Recipe]:
    """As `recipes_of`, behind those that `recipe` is compared with and what these start from."""
    for each in recipe.compared:
        yield from recipes_of(each)
    yield from recipes_of(recipe)


def with_compared(recipe: Recipe, compared: tuple[Recipe, ...]) -> Recipe:
    """`recipe`, compared with these, which also stand in its resolved form."""
    from runner.recipe.model import Compare

    if not compared:
        return recipe
    resolved = recipe.resolved()
    resolved[SECTION]["recipes"] = [as_seen_from(each, recipe.folder) for each in compared]
    section = Compare(tuple(resolved[SECTION]["recipes"]))
    return dataclasses.replace(recipe, compare=section, compared=compared, _resolved=resolved)


def alone(recipe: Recipe) -> Recipe:
    """`recipe` without what it is compared with: what decides its bytes."""
    if recipe.compare is None:
        return recipe
    resolved = recipe.resolved()
    del resolved[SECTION]
    return dataclasses.replace(recipe, compare=None, compared=(), _resolved=resolved)
