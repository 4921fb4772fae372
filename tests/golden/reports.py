"""One fixed set of bad recipes, and what every reporter says about it."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from runner.recipe.load import check_recipe
from runner.report.diagnostic import Diagnostic
from runner.report.reporters import REPORTERS
from tests.recipe_cases import copy_recipes

FOLDER = Path(__file__).with_name("reporters")
SHOWN = (
    "invalid/reading/tab-before-a-value.yaml",
    "invalid/reading/empty.yaml",
    "invalid/reading/not-utf-8.yaml",
    "invalid/reading/direction-mark.yaml",
    "invalid/schema/unknown-key.yaml",
    "invalid/schema/out-of-range.yaml",
    "invalid/cross/malformed-questions.yaml",
    "invalid/cross/ollama-without-gguf.yaml",
    "invalid/warnings/rank-and-scale.yaml",
)
# Golden file -> reporter, and whether it paints.
FILES = {
    "text.txt": ("text", False),
    "color.txt": ("text", True),
    "report.json": ("json", False),
    "github.txt": ("github", False),
    "sarif.json": ("sarif", False),
}


def diagnose(recipes: Path) -> list[Diagnostic]:
    """Everything about SHOWN. `recipes` is a copy of tests/recipes, and the working folder."""
    assert recipes.samefile(Path.cwd()), "names of files are part of a report"
    return [each for name in SHOWN for each in check_recipe(Path(name))[1]]


def render(golden: str, diagnostics: list[Diagnostic]) -> str:
    """What belongs into the golden file of that name; while its sources can be read."""
    reporter, color = FILES[golden]
    return REPORTERS[reporter](diagnostics, files=len(SHOWN), color=color)


def write_all() -> None:
    """Every golden file as it is now."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(copy_recipes(Path(place))):
        diagnostics = diagnose(Path.cwd())
        for golden in FILES:
            (FOLDER / golden).write_text(render(golden, diagnostics), encoding="utf-8")
