"""`recipe validate PATHS...`: every error of every recipe, in one go."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runner.report.diagnostic import Diagnostic, has_errors

HELP = "check recipes: all files, all errors at once"
EXAMPLE = "recipe validate recipes/"

_SUFFIXES = (".yaml", ".yml")
_HEAD = 64 * 1024  # bytes of a file that decide whether it is a recipe
_SCHEMA_KEY = re.compile(rb"^[\"']?schema[\"']?[ \t]*:", re.MULTILINE)
_SECTION_KEY = re.compile(rb"^[\"']?(model|data|train)[\"']?[ \t]*:", re.MULTILINE)
_FLOW_SCHEMA_KEY = re.compile(rb"\A(?:\s|#[^\n]*\n)*\{[^}]*?[\"']?\bschema\b[\"']?\s*:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a recipe, or a folder: every recipe below it. In a folder a .yaml or .yml file is a "
        "recipe when it has a top-level `schema:`, or two of `model:`, `data:` and `train:`; "
        "*.lock.yaml and hidden files are left out",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="default: %(default)s"
    )
    parser.add_argument("--strict", action="store_true", help="warnings are errors")


def main(args: argparse.Namespace) -> int:
    """Check and report. Returns 2 when there is an error, else 0."""
    from runner.report.reporters import REPORTERS, wants_color

    files, diagnostics = check_paths([Path(path) for path in args.paths])
    if args.strict:
        diagnostics = [replace(diagnostic, severity="error") for diagnostic in diagnostics]
    render = REPORTERS[args.format]
    sys.stdout.write(render(diagnostics, files=files, color=wants_color(sys.stdout)))
    return 2 if has_errors(diagnostics) else 0


def check_paths(paths: Sequence[Path]) -> tuple[int, list[Diagnostic]]:
    """How many recipes `paths` name, and everything that is wrong with them, sorted."""
    from runner.recipe.load import check_recipe

    diagnostics: list[Diagnostic] = []
    recipes: dict[Path, None] = {}
    for path in paths:
        found = list(recipes_below(path)) if path.is_dir() else [path]
        if not found:
            message, hint = "no recipe in this folder", "name a recipe, or a folder with recipes"
            diagnostics.append(Diagnostic("E123", "error", message, str(path), hint=hint))
        recipes.update(dict.fromkeys(found))
    for path in recipes:
        diagnostics += check_recipe(path)[1]
    return len(recipes), sorted(diagnostics, key=lambda diagnostic: diagnostic.sort_key)


def recipes_below(folder: Path) -> Iterator[Path]:
    """Recipes in `folder` and below, in order of path. Links to folders are not followed."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(where, name)
            if is_recipe_name(name) and looks_like_a_recipe(path):
                yield path


def is_recipe_name(name: str) -> bool:
    """A YAML file that is neither hidden nor a lock."""
    lock = name.endswith(tuple(f".lock{suffix}" for suffix in _SUFFIXES))
    return name.endswith(_SUFFIXES) and not name.startswith(".") and not lock


def looks_like_a_recipe(path: Path) -> bool:
    """Decided by its text, so that a recipe with a slip in `schema:` is still checked, not skipped.

    A file that cannot be read counts as one: the error is then reported, not hidden.
    """
    if path.is_symlink() and not path.exists():
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return True
    sections = {match[1] for match in _SECTION_KEY.finditer(head)}
    return bool(_SCHEMA_KEY.search(head) or _FLOW_SCHEMA_KEY.match(head)) or len(sections) >= 2
