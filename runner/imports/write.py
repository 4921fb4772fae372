"""`recipe new --from`: read somebody's settings, write a recipe, tell what became of each."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Place
from runner.capture.report import as_json, as_recipe, as_text
from runner.errors import UsageError
from runner.imports import load_import
from runner.imports.document import read_document
from runner.imports.kinds import kind_of
from runner.imports.wanted import Wanted
from runner.recipe.creation.write import slug
from runner.recipe.paths import project_root
from runner.report.printable import quoted

# Answers of a new recipe that the file gives.
_NOT_WITH = (
    "goal", "model", "parameters", "machine", "memory", "tuning", "max_length", "system",
)  # fmt: skip


def import_file(args: argparse.Namespace, path: Path) -> int:
    """Write the recipe at `path` (or print it), and the report to stdout, or beside to stderr.

    Returns 2, with the recipe's diagnostics, when what came out is no sound recipe: it is written
    all the same, since a person has to finish it.
    """
    _refuse_other_answers(args)
    document = read_document(args.source)
    kind, reason = kind_of(document, args.kind)
    source = load_import(kind)
    _refuse_method(args, kind, source.TOOL)
    made = source.convert(document, _wanted(args, path))
    text = _text(made, source.TOOL, path, args.source)
    if args.report == "json":
        report = as_json(made, kind=kind, reason=reason)
    else:
        report = f"{quoted(str(args.source), 120)} is of {source.TOOL}: {reason}\n{as_text(made)}"
    if args.stdout:
        sys.stdout.write(text)
        print(report, file=sys.stderr)
        return 0
    return _write(path, text, report, made)


def _refuse_other_answers(args: argparse.Namespace) -> None:
    given = [name for name in _NOT_WITH if getattr(args, name) is not None]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(
            f"{flags} and --from exclude each other: the file says it",
            hint="leave it out, and change the recipe that is written",
            code="E857",
        )


def _refuse_method(args: argparse.Namespace, kind: str, tool: str) -> None:
    if args.method is not None and kind != "trl":
        raise UsageError(
            f"--method is for files of TRL; settings of {tool} say the method themselves",
            hint="leave --method out",
            code="E857",
        )


def _wanted(args: argparse.Namespace, path: Path) -> Wanted:
    root = project_root(path)
    folder = path.resolve().parent
    place = Place((args.workspace or Path()).resolve(), folder, tuple(_rows(args, folder)))
    return Wanted(args.name or slug(path.stem), place, root, args.revision, args.method)


def _rows(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    from runner.recipe.creation.inputs import format_of_file
    from runner.scripts.data.formats import COMPARED

    return [
        {
            "path": os.path.relpath(file.resolve(), folder),
            "format": args.format or format_of_file(file, list(COMPARED)),
        }
        for file in args.data or []
    ]


def _text(made: Captured, tool: str, path: Path, source: Path) -> str:
    schema = os.path.relpath(
        project_root(path) / "schemas" / "recipe-1.json", path.resolve().parent
    )
    origin = f"Imported from {source.name}, settings of {tool}, by `recipe new --from`"
    first = f"# yaml-language-server: $schema={schema}"
    return as_recipe(made, origin, first)


def _write(path: Path, text: str, report: str, made: Captured) -> int:
    from runner.recipe.load import check_recipe
    from runner.report.reporters import print_beside
    from runner.store.atomic import write_as_told

    write_as_told(path, text)
    print(report)
    recipe, diagnostics = check_recipe(path)
    print_beside(diagnostics)
    lost = sum(note.fate in (Fate.WARNING, Fate.LOST) for note in made.notes)
    unlike = f"; {lost} settings are not expressible or to be decided, see above" if lost else ""
    print(f"wrote {path}{unlike}", file=sys.stderr)
    print(f"next: recipe plan {path}" if recipe else f"{path} is not sound yet", file=sys.stderr)
    return 0 if recipe else 2
