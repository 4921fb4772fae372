"""`recipe validate PATHS...`: every error of every recipe, in one go.

Files of a synthesis and of a judge are checked with them, by their own rules.
"""

from __future__ import annotations

import argparse
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import RecipeInvalid
from runner.report.diagnostic import Diagnostic, Note, each_once, has_errors
from runner.system.regular import NotReadable, is_folder, open_regular, walk

if TYPE_CHECKING:
    from runner.recipe.load import Checked

HELP = "check recipes: all files, all errors at once"
EXAMPLE = "recipe validate recipes/"

FORMATS = ("text", "json", "github", "sarif")  # of runner/report/reporters.py, imported late
_SUFFIXES = (".yaml", ".yml")
_HEAD = 64 * 1024  # bytes of a file that decide whether it is a recipe
_SCHEMA_KEY = re.compile(rb"^[\"']?schema[\"']?[ \t]*:", re.MULTILINE)
_SECTION_KEY = re.compile(rb"^[\"']?(model|data|train)[\"']?[ \t]*:", re.MULTILINE)
_FLOW_SCHEMA_KEY = re.compile(rb"\A(?:\s|#[^\n]*\n)*\{[^}]*?[\"']?\bschema\b[\"']?\s*:")
# Key -> who reads such a file, by `read_settings`.
_BESIDE = {"synthesis": "runner.synthesis.settings", "judge": "runner.judge.settings"}
_BESIDE_KEY = re.compile(rb"^[\"']?(synthesis|judge)[\"']?[ \t]*:[ \t]*\d", re.MULTILINE)
_BASE_KEY = re.compile(
    rb"^(?:[\"']?extends[\"']?[ \t]*:.*\.ya?ml\b|[\"']?abstract[\"']?[ \t]*:[ \t]*true\b)",
    re.MULTILINE,
)


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


def folders_below(
    folder: Path, wanted: Callable[[Path], bool]
) -> Iterator[tuple[Path, list[Path], str]]:
    """Each folder from `folder` down, the `wanted` files in order of path, why it cannot be read.

    Links to folders are not followed.
    """
    for where, names, problem in walk(folder, enter=lambda name: not name.startswith(".")):
        paths = (where / name for name in names)
        yield where, [path for path in paths if wanted(path)], problem


def recipes_below(folder: Path) -> Iterator[Path]:
    """Recipes in `folder` and below, in order of path; what cannot be read holds none."""
    for _, recipes, _ in folders_below(folder, is_recipe):
        yield from recipes


def is_checked(path: Path) -> bool:
    """Is this file of a folder looked at: a recipe, a synthesis, a judge?"""
    return is_recipe(path) or (is_recipe_name(path.name) and bool(kind_beside(path)))


def kind_beside(path: Path) -> str:
    """What else this file is by its text: "synthesis", "judge", or "" for a recipe and others."""
    head = _head(path)
    if not head or _marked(head):
        return ""
    found = _BESIDE_KEY.search(head)
    return found[1].decode() if found else ""


def is_recipe(path: Path) -> bool:
    """Would this file be checked as one of a folder?"""
    return is_recipe_name(path.name) and looks_like_a_recipe(path)


def is_recipe_name(name: str) -> bool:
    """A YAML file that is neither hidden nor a lock."""
    lock = name.endswith(tuple(f".lock{suffix}" for suffix in _SUFFIXES))
    return name.endswith(_SUFFIXES) and not name.startswith(".") and not lock


def looks_like_a_recipe(path: Path) -> bool:
    """Decided by its text, so that a recipe with a slip in `schema:` is still checked, not skipped.

    A file that cannot be read counts as one: the error is then reported, not hidden.
    """
    head = _head(path)
    return head is None or _marked(head)


def _marked(head: bytes) -> bool:
    sections = {match[1] for match in _SECTION_KEY.finditer(head)}
    marked = _SCHEMA_KEY.search(head) or _BASE_KEY.search(head) or _FLOW_SCHEMA_KEY.match(head)
    return bool(marked) or len(sections) >= 2


def _head(path: Path) -> bytes | None:
    """The begin of a file, b"" of what is none; None where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with open_regular(path) as file:
            return file.read(_HEAD) or b""  # None: a file of the kernel with nothing to say yet
    except (OSError, NotReadable):
        return None
