"""`recipe validate PATHS...`: every error of every recipe, in one go.

Files of a synthesis and of a judge are checked with them, by their own rules.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import RecipeInvalid
from runner.recipe.in_folders import folders_below, is_checked, kind_beside
from runner.report.diagnostic import Diagnostic, Note, each_once, has_errors
from runner.system.regular import is_folder

if TYPE_CHECKING:
    from runner.recipe.load import Checked

HELP = "check recipes: all files, all errors at once"
EXAMPLE = "recipe validate recipes/"

FORMATS = ("text", "json", "github", "sarif")  # of runner/report/reporters.py, imported late
# Key -> who reads such a file, by `read_settings`.
_BESIDE = {"synthesis": "runner.synthesis.settings", "judge": "runner.judge.settings"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    from runner.recipe import overrides

    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a recipe, or a folder: every recipe below it. In a folder a .yaml or .yml file is a "
        "recipe when it has a top-level `schema:`, two of `model:`, `data:` and `train:`, an "
        "`extends:` of a YAML file, or `abstract: true`; one with `synthesis:` or `judge:` is "
        "checked as such; *.lock.yaml and hidden files are left out",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: %(default)s")
    overrides.add_option(parser)
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument(
        "--locked", action="store_true", help="a repository of the hub without a commit is an error"
    )
    parser.add_argument(
        "--only-recipes",
        action="store_true",
        help="leave out named files that are no recipe by the rule for folders, as hooks need it",
    )


def main(args: argparse.Namespace) -> int:
    """Check and report. Returns 2 when there is an error, else 0."""
    from runner.report.reporters import REPORTERS, wants_color

    paths = [Path(path) for path in args.paths]
    if args.only_recipes:
        paths = [path for path in paths if is_folder(path) or is_checked(path)]
    files, diagnostics, notes = check_paths(paths, args.set)
    if args.locked:
        from runner.recipe.load import UNPINNED, as_errors

        diagnostics = as_errors(diagnostics, UNPINNED)
    if args.strict:
        diagnostics = [replace(diagnostic, severity="error") for diagnostic in diagnostics]
    render = REPORTERS[args.format]
    sys.stdout.write(render(diagnostics, files=files, color=wants_color(sys.stdout), notes=notes))
    return 2 if has_errors(diagnostics) else 0


def check_paths(
    paths: Sequence[Path], overrides: Sequence[str] = ()
) -> tuple[int, list[Diagnostic], list[Note]]:
    """How many recipes `paths` name, everything that is wrong with them, sorted, and notes."""
    diagnostics: list[Diagnostic] = []
    recipes: dict[Path, None] = {}
    for path in paths:
        found = list(_named(path, diagnostics))
        if not found:
            message, hint = "no recipe in this folder", "name a recipe, or a folder with recipes"
            diagnostics.append(Diagnostic("E123", "error", message, str(path), hint=hint))
        recipes.update(dict.fromkeys(found))
    checked = {path: _check(path, overrides) for path in recipes}
    diagnostics += each_once({path: each.diagnostics for path, each in checked.items()})
    notes = [Note(str(path), each.not_checked) for path, each in checked.items()]
    diagnostics.sort(key=lambda diagnostic: diagnostic.sort_key)
    return len(recipes), diagnostics, sorted(note for note in notes if note.message)


def _check(path: Path, overrides: Sequence[str]) -> Checked:
    from runner.recipe.load import Checked, check_file

    if not (kind := kind_beside(path)):
        return check_file(path, overrides)
    try:
        import_module(_BESIDE[kind]).read_settings(path)
    except RecipeInvalid as error:
        return Checked(list(error.diagnostics))
    return Checked([])


def _named(path: Path, diagnostics: list[Diagnostic]) -> Iterator[Path]:
    """The recipes that `path` names; folders below it that cannot be read become diagnostics."""
    if not is_folder(path):
        yield path
        return
    for where, recipes, problem in folders_below(path, is_checked):
        if problem:
            message = f"cannot read the folder: {problem}"
            hint = "check its rights, and that it is not nested too deep"
            diagnostics.append(Diagnostic("E101", "error", message, str(where), hint=hint))
        yield from recipes
