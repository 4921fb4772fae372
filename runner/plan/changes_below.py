"""What a pull request changes in results: every recipe of two folders, compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.errors import RecipeInvalid
from runner.plan.changes import Changes, changes
from runner.recipe.load import load_recipe

ADDED, REMOVED, CHANGED, INVALID = "added", "removed", "changed", "invalid"


@dataclass(frozen=True, slots=True)
class RecipeChange:
    """One recipe that is not the same in both folders; `changes` of one that is CHANGED."""

    path: str  # below both folders
    kind: str
    changes: Changes | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is not the same, by path; `same` counts the rest."""

    recipes: tuple[RecipeChange, ...]
    same: int


def compare_folders(base: Path, head: Path) -> Comparison:
    """Compare all recipes below two folders. Reads the files that they name; no network."""
    from runner.recipe.in_folders import recipes_below

    before, after = (
        {path.relative_to(folder).as_posix(): path for path in recipes_below(folder)}
        for folder in (base, head)
    )
    found = []
    for name in sorted({*before, *after}):
        change = _compare(name, before.get(name), after.get(name))
        if change is not None:
            found.append(change)
    return Comparison(tuple(found), len({*before, *after}) - len(found))


def _compare(name: str, base: Path | None, head: Path | None) -> RecipeChange | None:
    if head is None:
        return RecipeChange(name, REMOVED)
    try:
        recipe = load_recipe(head)
    except RecipeInvalid as error:
        # What changes by an abstract file, the recipes that extend it say.
        abstract = {each.code for each in error.diagnostics if each.severity == "error"} == {"E127"}
        return None if abstract else RecipeChange(name, INVALID)
    if base is None:
        return RecipeChange(name, ADDED)
    try:
        found = changes(load_recipe(base), recipe)
    except RecipeInvalid:
        return RecipeChange(name, ADDED)  # there was nothing before that could have been run
    return RecipeChange(name, CHANGED, found) if found.values or found.any else None
