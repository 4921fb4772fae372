"""Check many locks at once: one diagnostic for every entry that is stale."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import LockStale, RecipeInvalid, UsageError
from runner.lock.file import SUFFIX, is_lock, lock_path, read_lock, recipe_path
from runner.lock.locking import stale
from runner.lock.pins import cheap_pins, stale_entries
from runner.recipe.load import load_recipe
from runner.report.diagnostic import Diagnostic

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

Pin = Callable[["Recipe"], "Recipe"]


def check_locks(paths: Sequence[Path], pin: Pin | None) -> tuple[int, list[Diagnostic]]:
    """How many locks there are, and what is stale in them, by file.

    `paths` are recipes, which must have a lock, their locks, or folders. `pin` says which commits
    the hub has now for branches and tags; without it those of the lock count, and nobody is asked.
    """
    found = dict.fromkeys(each for path in paths for each in _recipes_of(path))
    diagnostics = [each for recipe in found for each in _check(recipe, pin)]
    return len(found), sorted(diagnostics, key=lambda diagnostic: diagnostic.sort_key)


def exit_code(diagnostics: Sequence[Diagnostic]) -> int:
    """0 when all is fresh, 5 when something is stale, 2 when a recipe or lock cannot be read."""
    errors = {each.code for each in diagnostics if each.severity == "error"}
    return 2 if errors - {"E802", "E803"} else 5 if errors else 0


def _recipes_of(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield _recipe_beside(path) if is_lock(path) else path
        return
    for where, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "run.json" in files:
            folders.clear()  # a run keeps the lock that it went by
            continue
        for name in sorted(files):
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield _recipe_beside(Path(where, name))


def _recipe_beside(lock: Path) -> Path:
    """The recipe that the lock was made from; the lock itself, which carries it, if it is gone."""
    recipe = recipe_path(lock)
    return next((each for each in (recipe, recipe.with_suffix(".yml")) if each.is_file()), lock)


def _check(path: Path, pin: Pin | None) -> list[Diagnostic]:
    lock_file = path if is_lock(path) else lock_path(path)
    try:
        recipe = load_recipe(path)
        if not lock_file.is_file():
            hint = f"write it: recipe lock {path}"
            return [Diagnostic("E802", "error", "the recipe has no lock", str(path), hint=hint)]
        lock = read_lock(lock_file)
        recipe = pin(recipe) if pin else _pinned_as(recipe, lock["recipe"])
    except RecipeInvalid as error:
        return list(error.diagnostics)
    except (UsageError, LockStale) as error:
        return [Diagnostic(error.code, "error", error.message, str(lock_file), hint=error.hint)]
    entries = stale_entries(lock, cheap_pins(recipe))
    hint = stale(lock_file, lock, entries).hint
    return [
        Diagnostic("E802", "error", f"stale: {entry}", str(lock_file), hint=hint)
        for entry in entries
    ]


def _pinned_as(recipe: Recipe, locked: dict[str, object]) -> Recipe:
    from runner.execution.revisions import pinned_as

    return pinned_as(recipe, locked)
