"""The versions of a recipe's shape, `schema: 1` and those to come, and the way to the next.

To change the shape: copy the schema file under the next number, and add one line to VERSIONS with
the function that edits a recipe of the version before (runner/recipe/edit.py). Defaults are frozen
per version: where the new one has another default, the edit writes the old value out. The old
schema file stays, since a recipe is checked in its own words before it is edited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runner.errors import RecipeInvalid
from runner.lock.file import recipe_path
from runner.recipe.schema import Schema, load_schema, schema_for
from runner.recipe.source import Source
from runner.recipe.validate import findings
from runner.report.diagnostic import Diagnostic

if TYPE_CHECKING:
    from runner.recipe.edit import Document

NEEDS = "Spark Recipes {} or newer"  # in the comment behind `schema:`, for tools that are older
_MODELINE = re.compile(r"(yaml-language-server:\s*\$schema=\S*recipe-)\d+(\.json)")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the shape.

    `since` is the first Spark Recipes that reads it. `schema` is what a file with this data is held
    to, whole or a part; `resolved` what a recipe is with its bases and defaults. `edit` makes a
    recipe of the version before into one of this (it need not set `schema:`, and where a key is
    missing its edits do nothing, as in a part); it is None for the first.
    """

    number: int
    since: str
    schema: Callable[[Any], Schema]
    resolved: Callable[[], Schema]
    edit: Callable[[Document], None] | None = None


VERSIONS: tuple[Version, ...] = (Version(1, "0.1", schema=schema_for, resolved=load_schema),)


def newest() -> Version:
    """The version that everything behind the reading of a recipe knows."""
    return VERSIONS[-1]


def number_of(source: Source, root: str = "") -> int | None:
    """The number behind `schema:` of the recipe below `root`; None when there is none."""
    data = source.data
    if root and isinstance(data, dict):
        data = data.get(root.removeprefix("/"))
    number = data.get("schema") if isinstance(data, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def version(number: int | None) -> Version | None:
    """The version of this number; None for one that we do not know."""
    return next((each for each in VERSIONS if each.number == number), None)


def shape_diagnostics(source: Source, of: Version, root: str = "") -> list[Diagnostic]:
    """What is wrong with the shape of the recipe below `root`, by the version that it is of."""
    part = source.part(root) if root else source
    schema = of.resolved() if root else of.schema(part.data)
    found = [
        finding.diagnostic(part)
        for finding in findings(part.data, schema)
        if not part.is_damaged(finding.pointer)
    ]
    return [*part.problems, *found]


def up_to_date(source: Source, number: int | None = None, root: str = "") -> Source:
    """The recipe below `root` in the newest shape; then a warning is among its problems.

    Its places are still those in the file. `number` is the version of a part of a recipe that does
    not say its own. A recipe of the newest version, or of none that is known, comes back as it is.
    Raises RecipeInvalid for one that is not right in its own version.
    """
    old = version(number_of(source, root) or number)
    if old is None or old is newest():
        return source
    if wrong := shape_diagnostics(source, old, root):
        raise RecipeInvalid(wrong)
    message = f"the recipe is of schema {old.number}, and was read as {newest().number}"
    hint = f"rewrite it: recipe migrate {source.path}"
    if root:
        hint = f"write the lock anew: recipe lock {recipe_path(source.path)}"
    warning = source.diagnostic("W150", f"{root}/schema", message, hint=hint)
    return replace(migrated(source, old, root).source, problems=(warning,))


def all_up_to_date(sources: Sequence[Source]) -> tuple[Source, ...]:
    """A recipe and its bases, nearest first; one that says no version has that of its base.

    A base that says none, and has none that does, has that of what extends it.
    """
    made: list[Source] = []
    inherited = next(filter(None, map(number_of, reversed(sources))), None)
    for source in reversed(sources):
        inherited = number_of(source) or inherited
        made.append(up_to_date(source, inherited))
    return tuple(reversed(made))


def migrated(source: Source, old: Version, root: str = "") -> Document:
    """The recipe below `root`, right in its own version `old`, edited to the newest shape.

    Raises RecipeInvalid where it is written in a way that cannot be edited.
    """
    from runner.recipe.edit import Document, NotEditable

    document = Document(source, root)
    try:
        for step in VERSIONS[VERSIONS.index(old) + 1 :]:
            assert step.edit is not None
            step.edit(document)
            document.set("/schema", step.number)
    except NotEditable as error:
        message = f"this cannot be migrated as it is written: {error.message}"
        hint = "write it as `key: value`, on lines of their own, then try again"
        raise RecipeInvalid(
            [source.diagnostic("E152", root + error.pointer, message, hint=hint)]
        ) from error
    document.replace_in_comments(_MODELINE, rf"\g<1>{newest().number}\g<2>")
    needs = NEEDS.format(newest().since)
    document.replace_in_comments(re.compile(NEEDS.format(r"\d+(?:\.\d+)*")), needs)
    document.comment("/schema", f"# {needs}")
    return document
