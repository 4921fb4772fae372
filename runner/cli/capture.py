"""`recipe capture`: what was clicked in LLaMA Factory's web UI, as a recipe for a pull request."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

HELP = (
    "Turn a run of LLaMA Factory's web UI (its folder below saves/), or the YAML file of "
    "llamafactory-cli train, into a recipe; say of every setting what became of it."
)
EXAMPLE = "recipe capture saves/Custom/lora/train_1 -o recipes/clicked.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe capture`."""
    parser.add_argument("source", type=Path, help="a run's folder, or a YAML file of settings")
    parser.add_argument("-o", "--output", type=Path, help="the recipe to write; else it is printed")
    parser.add_argument(
        "--workspace",
        type=Path,
        help="the folder that LLaMA Factory was started in; default: the one above saves/, "
        "else this one",
    )
    parser.add_argument("--name", help="the recipe's name; default: that of the file or folder")
    parser.add_argument("--force", action="store_true", help="replace an existing recipe")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the report")


def main(args: argparse.Namespace) -> int:
    """Write the recipe, and the report to stdout (to stderr when the recipe goes there).

    Returns 2, with the recipe's diagnostics, when what was captured is no sound recipe: it is
    written all the same, since a person has to finish it.
    """
    from runner.capture.data_sets import Place
    from runner.capture.report import as_json, as_recipe, as_text
    from runner.capture.settings import capture
    from runner.capture.source import read

    _refuse_to_replace(args)
    _refuse_no_name(args.name)
    source = read(args.source)
    folder = (args.output.parent if args.output else Path()).resolve()
    place = Place((args.workspace or _workspace(args.source)).resolve(), folder)
    made = capture(source, place, args.name or _name(args))
    text = as_recipe(made, f"Captured from {args.source.name}: what LLaMA Factory was told")
    report = as_json(made) if args.format == "json" else as_text(made)
    if args.output is None:
        print(text, end="")
        print(report, file=sys.stderr)
        return 0
    return _write(args.output, text, report)


def _workspace(source: Path) -> Path:
    """The web UI saves a run as saves/MODEL/METHOD/NAME in the folder that it works in."""
    above = source.resolve().parents
    return above[3] if source.is_dir() and len(above) > 3 and above[2].name == "saves" else Path()


def _refuse_to_replace(args: argparse.Namespace) -> None:
    from runner.errors import UsageError

    if args.output and args.output.exists() and not args.force:
        raise UsageError(
            f"{args.output} exists",
            hint="choose another name, or replace it with --force",
            code="E852",
        )


def _refuse_no_name(name: str | None) -> None:
    """A recipe's name is one of a folder."""
    from runner.errors import UsageError
    from runner.recipe.schema import load_schema
    from runner.report.printable import quoted

    pattern = load_schema()["properties"]["name"]["pattern"]
    if name is not None and not re.search(pattern, name):
        raise UsageError(
            f"{quoted(name)} is no name for a recipe",
            hint="use small letters, digits and -._ behind a letter or digit",
        )


def _name(args: argparse.Namespace) -> str:
    """A valid name of a recipe, from that of its file or of the run's folder."""
    stem = args.output.stem if args.output else args.source.resolve().stem
    words = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return words[:63] or "captured"


def _write(output: Path, text: str, report: str) -> int:
    from runner.recipe.load import check_recipe
    from runner.report.reporters import print_beside
    from runner.store.atomic import write_as_told

    write_as_told(output, text)
    print(report)
    recipe, diagnostics = check_recipe(output)
    print_beside(diagnostics)
    print(f"{output} is written" + ("" if recipe else ", and is not sound yet: see above"))
    return 0 if recipe else 2
