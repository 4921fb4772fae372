"""The recipes that another one names: `model.recipe` and `reward.recipe`, found, read, checked.

In a file it is a path. In what is resolved (a lock, run.json) the recipe itself stands in its
place, complete, with paths as seen from the outer recipe: whoever has that one has all of it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import RecipeInvalid
from runner.recipe.checks.unfit import is_lock
from runner.recipe.finding import Finding, dotted
from runner.recipe.paths import is_readable_file, moved_path, project_root, replace_paths, stat_mode
from runner.recipe.schema import load_schema
from runner.recipe.source import Source, parse_source, read_bytes
from runner.recipe.validate import findings
from runner.report.diagnostic import Diagnostic, has_errors
from runner.report.printable import quoted

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

POINTER = "/model/recipe"
SCORER = "/reward/recipe"
# Where a recipe names another one -> the attribute of `Recipe` that has it, read.
PLACES: Mapping[str, str] = {POINTER: "base", SCORER: "scorer"}
MAX_RECIPES = 8  # one starting from the other
MAX_IN_ALL = 32  # recipes in a resolved one: two in each would else be 2 ** 8

# What the reading of a recipe gives: the recipe, or None when it has an error; what is to be said.
Read = tuple["Recipe | None", list[Diagnostic]]
Check = Callable[[Source, tuple[Path, ...]], Read]


def section_of(place: str) -> str:
    """The section of the recipe that `place`, one of PLACES, is in."""
    return place.split("/")[1]


def names_recipe(source: Source, place: str) -> bool:
    """Does the recipe name another one at `place`, by a path or by that recipe itself?"""
    section = source.data.get(section_of(place)) if isinstance(source.data, dict) else None
    return isinstance(section, dict) and isinstance(section.get("recipe"), str | dict)


def read_recipe(source: Source, place: str, above: tuple[Path, ...], check: Check) -> Read:
    """The recipe that `source` names at `place`, and what is wrong with it, each in its own file.

    `above`: the real files from the outermost recipe to this one. `check` reads a recipe from its
    source, knowing what lies above it. Reads files; no network.
    """
    if isinstance(source.at(place), dict):
        base, found = check(source.part(place), above)
    else:
        real = _real_file(source, place, above)
        if isinstance(real, Finding):
            return None, [real.diagnostic(source)]
        try:
            inner = parse_source(read_bytes(real), _shown(source, place, real))
        except RecipeInvalid as error:
            return None, _named_by(source, place, error.diagnostics)
        if is_lock(inner.data):
            message = f"{quoted(str(source.at(place)), 80)} is a lock, and pins one recipe alone"
            hint = "start from the recipe that it was made from; this recipe's lock pins both"
            return None, [source.diagnostic("E258", place, message, hint=hint)]
        base, found = check(inner, (*above, real))
        found = _named_by(source, place, found)
    if base is not None and sum(1 for _ in recipes_of(base)) > MAX_IN_ALL // 2 - 1:
        found = [*found, _too_many(place).diagnostic(source)]
    if base is not None and (problem := _gives_nothing(base, place, _name(source, place))):
        found = [*found, problem.diagnostic(source)]
    return (None if has_errors(found) else base), found


def _named_by(source: Source, place: str, found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """`found` in the recipe named at `place`; an error's hint says where that is."""
    file, span = source.place(place)
    by = f"named by {file}:{span.line}" if span.line else f"named by {file}"

    def with_place(each: Diagnostic) -> Diagnostic:
        if each.severity != "error":
            return each
        chain = _NAMED.search(each.hint)
        if chain:  # by a recipe that this one names in turn
            return dataclasses.replace(each, hint=f"{each.hint[:-1]}, that one {by})")
        return dataclasses.replace(each, hint=f"{each.hint} ({by})" if each.hint else f"({by})")

    return list(map(with_place, found))


_NAMED = re.compile(r"\(named by [^()]*\)$")


def _gives_nothing(base: Recipe, place: str, name: str) -> Finding | None:
    """Why `base` does not give what is wanted at `place`."""
    if place == POINTER:
        return _gives_no_model(base, name)
    return _gives_no_scores(base, name) if place == SCORER else None


def with_base(recipe: Recipe, base: Recipe) -> Recipe:
    """`recipe`, starting from `base`, which also stands in its resolved form."""
    resolved = recipe.resolved()
    resolved["model"]["recipe"] = as_seen_from(base, recipe.folder)
    model = dataclasses.replace(recipe.model, recipe=resolved["model"]["recipe"])
    return dataclasses.replace(recipe, model=model, base=base, _resolved=resolved)


def with_scorer(recipe: Recipe, scorer: Recipe) -> Recipe:
    """`recipe`, its answers scored by what `scorer` trains: as `with_base`."""
    resolved = recipe.resolved()
    resolved["reward"]["recipe"] = as_seen_from(scorer, recipe.folder)
    assert recipe.reward is not None
    reward = dataclasses.replace(recipe.reward, recipe=resolved["reward"]["recipe"])
    return dataclasses.replace(recipe, reward=reward, scorer=scorer, _resolved=resolved)


def as_seen_from(base: Recipe, folder: Path) -> dict[str, Any]:
    """The resolved `base` with its relative paths as they are written in the real `folder`."""
    file = base.source.path.resolve()
    if file.parent == folder:
        return base.resolved()
    return replace_paths(base, lambda _, text: moved_path(text, file, folder))


def resolved_findings(resolved: Any) -> list[Finding]:
    """What is wrong with a resolved recipe and with those that it starts from, by the schema."""
    todo = [("", resolved, 1)]
    for seen in range(MAX_IN_ALL):
        if seen == len(todo):
            return []
        pointer, data, depth = todo[seen]
        if found := findings(data, load_schema()):
            return [dataclasses.replace(each, pointer=pointer + each.pointer) for each in found]
        if pointer and "compare" in data:
            message = "a recipe that another one names is compared with nothing itself"
            return [Finding("E104", f"{pointer}/compare", message)]
        for place, inner in _named_in(data):
            if not isinstance(inner, dict):
                message = f"{dotted(place)} is a path, where the recipe itself must stand"
                return [Finding("E104", pointer + place, message)]
            if depth == MAX_RECIPES:
                return [_too_many(pointer + place)]
            todo.append((pointer + place, inner, depth + 1))
    return [] if len(todo) == MAX_IN_ALL else [_too_many(todo[MAX_IN_ALL][0])]


def _named_in(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Where a resolved recipe has others, and what stands there."""
    for place in PLACES:
        inner = (data.get(section_of(place)) or {}).get("recipe")
        if inner is not None:
            yield place, inner
    for number, inner in enumerate((data.get("compare") or {}).get("recipes", ())):
        yield f"/compare/recipes/{number}", inner


def recipes_of(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe and those that it starts from, the innermost first; one may come twice."""
    for inner in (recipe.base, recipe.scorer):
        if inner is not None:
            yield from recipes_of(inner)
    yield recipe


def of_one_name(place: str, inner: Recipe | None, outer: Recipe) -> Finding | None:
    """Why the runs of two recipes would lie in one folder; None where each has its own."""
    if inner is None or not isinstance(outer.source.data.get("name"), str):
        return None
    if all(each.name != outer.name for each in recipes_of(inner)):
        return None
    what = "starts from" if place in PLACES else "is compared with"
    message = (
        f"a recipe that this one {what} also has the name {quoted(outer.name, 80)}: "
        f"the runs of both would lie in runs/{outer.name}"
    )
    return Finding("E257", place, message, "give this recipe another name")


def innermost(recipe: Recipe) -> Recipe:
    """The recipe that starts from a base model and from no other recipe."""
    return recipe if recipe.base is None else innermost(recipe.base)


def _name(source: Source, place: str) -> str:
    given = source.at(place)
    return str(given) if isinstance(given, str) else str(given.get("name"))


def _real_file(source: Source, place: str, above: tuple[Path, ...]) -> Path | Finding:
    """The file that `place` leads to, links resolved, or why it is not read."""
    text = source.at(place)
    shown = quoted(text, 80)
    named_in = source.file(place)
    folder = named_in.resolve().parent if named_in in source.bases else source.folder
    if text.startswith("/"):
        hint = "write it relative to the folder of this file"
        return Finding("E208", place, f"{shown} is absolute", hint)
    try:
        real = (folder / text).resolve()
    except (OSError, RuntimeError, ValueError):
        message = f"{shown} is not a path"
        return Finding("E209", place, message, "check the name and its links")
    root = project_root(source.path)
    if not real.is_relative_to(root):
        message = f"{shown} leads out of the project {quoted(str(root))}"
        return Finding("E208", place, message, "move the file below that folder")
    if real in above:
        names = [path.name for path in (*above[above.index(real) :], real)]
        message = f"{shown} starts from this recipe itself: {' → '.join(names)}"
        hint = "one of them must start from a base model"
        if place not in PLACES:
            message = f"{shown} leads back to this recipe: {' → '.join(names)}"
            hint = "name another recipe"
        return Finding("E257", place, message, hint)
    if len(above) >= MAX_RECIPES:
        return _too_many(place)
    return _unreadable(shown, place, real) or real


def _unreadable(shown: str, place: str, real: Path) -> Finding | None:
    if stat_mode(real) is None:
        hint = "paths start at the folder of the file that names them"
        return Finding("E209", place, f"{shown} does not exist", hint)
    if not is_readable_file(real):
        return Finding("E210", place, f"{shown} is not a readable file", "name a recipe's file")
    return None


def _too_many(pointer: str) -> Finding:
    message = f"more than {MAX_RECIPES} recipes, one starting from the other"
    return Finding("E258", pointer, message, "start from a merged folder: model.path")


def _shown(source: Source, place: str, real: Path) -> Path:
    """The file's path as a person would name it from where they named the recipe."""
    named_in = source.file(place)
    start = named_in if named_in in source.bases else source.path
    near = Path(os.path.normpath(start.parent / source.at(place)))
    return near if near.resolve() == real else real


def _gives_no_model(base: Recipe, name: str) -> Finding | None:
    """Why nothing can start from what `base` gives; None when it gives a model."""
    shown = quoted(name, 80)
    if base.train.method == "reward":
        message = f"{shown} trains a reward model, which has a score where others have words"
        return Finding("E256", POINTER, message, "start from a recipe of another method")
    if innermost(base).model.trust_remote_code:
        message = f"{shown} is about a model with code of its own, which does not travel on"
        return Finding("E256", POINTER, message, "start from a model without trust_remote_code")
    if base.train.adapter.type != "none" and base.merge is None:
        message = f"{shown} trains an adapter and does not merge it, so it gives no model"
        return Finding("E256", POINTER, message, f'add "merge: {{}}" to {name}')
    return None


def _gives_no_scores(scorer: Recipe, name: str) -> Finding | None:
    """Why nothing can be scored by what `scorer` gives; None when it gives a reward model."""
    shown, method = quoted(name, 80), scorer.train.method
    if method != "reward":
        message = f"{shown} trains by {method}, and gives no model that scores answers"
        return Finding("E265", SCORER, message, "name a recipe of method reward")
    if innermost(scorer).model.trust_remote_code:
        message = f"{shown} is about a model with code of its own, which does not travel on"
        return Finding("E256", SCORER, message, "score by a model without trust_remote_code")
    return None
