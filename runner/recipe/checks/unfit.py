"""Files that the schema says nothing useful about: no mapping, a newer schema; and locks."""

from __future__ import annotations

import re
import shlex
from typing import Any

from runner.recipe.finding import Finding, describe
from runner.recipe.source import Source
from runner.recipe.versions import NEEDS, newest, number_of
from runner.report.printable import escaped

_ENOUGH = 2  # settings of one other tool alone, for it to be a file of that tool
_OURS = frozenset(("schema", "extends", "abstract", "model", "data", "train"))
_NEEDED = re.compile(r"#.*\b" + NEEDS.format(r"(\d+(?:\.\d+)*)"))


def is_lock(data: Any) -> bool:
    """A lock carries its recipe inside."""
    return isinstance(data, dict) and "lock" in data and isinstance(data.get("recipe"), dict)


def unfit(source: Source) -> Finding | None:
    """What alone is to be said of such a file; None for any other."""
    if not isinstance(source.data, dict):
        message = f"a recipe is a mapping of keys to values, not {describe(source.data)}"
        return Finding("E121", "", message, "start from recipes/quickstart.yaml")
    if "synthesis" in source.data and not _OURS & source.data.keys():
        name = shlex.quote(escaped(str(source.path)))
        hint = f"make them: recipe data synthesize {name} -o rows.jsonl"
        return Finding("E121", "", "this is a synthesis recipe: it makes rows of data", hint)
    if not _OURS & source.data.keys() and (found := _of_another_tool(source)) is not None:
        return found
    number = number_of(source)
    if number is None or number <= newest().number:
        return None
    from runner import __version__

    lines = source.text.split("\n")
    line = lines[min(source.span("/schema").line, len(lines)) - 1]
    needed = _NEEDED.search(line)
    wanted = NEEDS.format(needed[1]) if needed else "a newer Spark Recipes"
    known = newest().number
    message = f"the recipe is of schema {number}; Spark Recipes {__version__} knows up to {known}"
    return Finding("E122", "/schema", message, f"update to {wanted}")


def _of_another_tool(source: Source) -> Finding | None:
    """Somebody's settings of another tool: one word about the whole file says more than fifty."""
    from runner.imports import load_import
    from runner.imports.kinds import listed_and, told_by

    told = told_by(source.data, enough=_ENOUGH)
    if told is None:
        return None
    kind, signs = told
    message = f"these are settings of {load_import(kind).TOOL}, not a recipe: {listed_and(signs)}"
    hint = f"make a recipe of them: recipe new --from {shlex.quote(escaped(str(source.path)))}"
    return Finding("E121", "", message, hint)
