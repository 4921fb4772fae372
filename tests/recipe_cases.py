"""The recipes in tests/recipes, with what they say about themselves."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.recipe.in_folders import recipes_below
from runner.recipe.source import read_source

RECIPES = Path(__file__).parent / "recipes"
VALID = sorted(RECIPES.glob("valid/*.yaml"))
EXTENDING = sorted(RECIPES.glob("valid/extends/*.yaml"))  # valid, each with its bases
INVALID = sorted(RECIPES.glob("invalid/*/*.yaml"))
BASES = sorted(RECIPES.glob("**/bases/*.yaml"))  # of recipes under valid and invalid
SHIPPED = sorted(recipes_below(RECIPES.parent.parent / "recipes"))
WHOLE = [path for path in SHIPPED if "extends" not in read_source(path).data]  # alone, too

_EXPECTED = re.compile(
    rb"^# expect (?P<code>[EW]\d{3}) (?:(?P<file>[^:\s]+):)?(?P<line>\d+):(?P<column>\d+) "
    rb"(?P<message>.*) \| (?P<hint>.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """One diagnostic that a file says it has. `message` is the whole message or its beginning."""

    code: str
    file: str
    line: int
    column: int
    message: str
    hint: str


def expectations(path: Path) -> list[Expected]:
    """What the comments of an invalid recipe promise, in the order of the file."""
    return [
        Expected(
            code=match["code"].decode(),
            file=(match["file"] or path.name.encode()).decode(),
            line=int(match["line"]),
            column=int(match["column"]),
            message=match["message"].decode(),
            hint=match["hint"].decode(),
        )
        for match in _EXPECTED.finditer(path.read_bytes())
    ]


def copy_recipes(to: Path) -> Path:
    """tests/recipes in a project of its own, so that no test depends on where the checkout is."""
    shutil.copytree(RECIPES, to / "recipes")
    (to / ".git").mkdir()
    return to / "recipes"


def canonical(data: Any) -> str:
    """One text per value; 1 and 1.0 differ."""
    return json.dumps(data, sort_keys=True)
