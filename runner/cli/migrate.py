"""`recipe migrate FILES...`: bring recipes to the newest schema; comments and order stay."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.recipe.migrate import Migration
    from runner.report.diagnostic import Diagnostic

HELP = (
    "Rewrite recipes of an older schema as the newest, in place. Only what changed is touched:\n"
    "comments, order, quotes and blank lines stay. A recipe that is wrong is told and left alone."
)
EXAMPLE = "recipe migrate recipes/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe migrate`."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a recipe, or a folder: every recipe below it, as `recipe validate` finds them",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--check", action="store_true", help="write nothing; exit 2 when a recipe would change"
    )
    how.add_argument("--diff", action="store_true", help="write nothing; show what would change")
    how.add_argument(
        "--stdout", action="store_true", help="write nothing; print the one recipe as it would be"
    )


def main(args: argparse.Namespace) -> int:
    """Migrate. Exit code 2: a recipe is wrong, or (`--check`) not of the newest schema."""
    from runner.recipe.migrate import migrate

    paths = _recipes(args.paths)
    if args.stdout and len(paths) != 1:
        raise UsageError(f"--stdout prints one recipe, and {len(paths)} are named")
    found = [migrate(path) for path in paths]
    problems = [each for one in found for each in one.found]
    if args.check:
        problems += [one.outdated() for one in found if one.changes]
    if args.stdout:
        sys.stdout.buffer.write(b"" if problems else found[0].after)
        sys.stdout.buffer.flush()
    elif args.check or args.diff:
        sys.stdout.write("".join(one.diff() for one in found))
    else:
        for one in found:
            _write(one)
    _report(found, problems, quiet=args.stdout)
    return 2 if problems else 0


def _recipes(paths: list[Path]) -> list[Path]:
    from runner.recipe.in_folders import recipes_below

    found: dict[Path, None] = {}
    for path in paths:
        below = list(recipes_below(path)) if path.is_dir() else [path]
        if not below:
            raise UsageError(
                f"no recipe in {path}", hint="name a recipe, or a folder with recipes", code="E123"
            )
        found.update(dict.fromkeys(below))
    return list(found)


def _write(one: Migration) -> None:
    from runner.recipe.versions import newest

    if one.changes:
        one.write()
        print(f"{one.path}: schema {one.number} -> {newest().number}")


def _report(found: list[Migration], problems: list[Diagnostic], *, quiet: bool) -> None:
    from runner.recipe.versions import newest
    from runner.report.reporters import REPORTERS, wants_color

    if problems:
        ordered = sorted(problems, key=lambda problem: problem.sort_key)
        text = REPORTERS["text"](ordered, color=wants_color(sys.stderr))
        sys.stderr.write(text)
    same = sum(not one.changes and not one.found for one in found)
    if same and not quiet:
        what = "recipe is" if same == 1 else "recipes are"
        print(f"{same} {what} of the newest schema, {newest().number}")
