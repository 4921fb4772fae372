"""`recipe data inspect`: what is in files of rows, and what is wrong with them. Reads only."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.cli.data import EXAMPLE
from runner.cli.data.columns import columns_of
from runner.errors import MachineCannot, RecipeToolError, UsageError
from runner.report.beside import error_data

if TYPE_CHECKING:
    from runner.rows.seen import RowFile
    from runner.rows.survey import Survey
    from runner.scripts.data.special_text import SpecialText

    Failed = tuple[str | None, RecipeToolError]  # the file, where it is one's fault


def main(args: argparse.Namespace) -> int:
    """0; 1 where a row does not fit, or there is none. Raises what is wrong with a whole file."""
    from runner.report.reporters import print_beside, wants_color
    from runner.rows.survey import as_data, note_seen

    recipe = None
    if args.recipe is not None:
        from runner.recipe.load import load_recipe

        recipe = load_recipe(args.recipe, warn=print_beside)
    failed: list[Failed] = []
    with ExitStack() as files:
        found = list(_surveys(args, recipe, files, failed))
        rows = _seen(recipe, found, failed) if recipe is not None and args.rows and found else []
        if recipe is not None:
            _count_dropped(recipe, found, failed)
    for each, _ in found if recipe is not None else ():
        note_seen(each, rows)
    if args.format == "json":
        said: dict[str, Any] = {"schema": 1, "files": [as_data(each) for each, _ in found]}
        said |= {"errors": [error_data(error, file) for file, error in failed]} if failed else {}
        print(json.dumps(said | ({"seen": rows} if recipe else {}), indent=2, ensure_ascii=False))
    else:
        for line in _lines(found, rows, seen=recipe is not None, color=wants_color(sys.stdout)):
            print(line)
    _raise_last(failed)
    return 0 if all(each.is_sound for each, _ in found) else 1


def _raise_last(failed: Sequence[Failed]) -> None:
    """Say why each file is not shown; the error with the highest exit code is raised."""
    from runner.report.beside import error_lines

    ordered = sorted((error for _, error in failed), key=lambda error: error.exit_code)
    for error in ordered[:-1]:
        print(*error_lines(error), sep="\n", file=sys.stderr)
    if ordered:
        raise ordered[-1]


def _surveys(
    args: argparse.Namespace, recipe: Any, files: ExitStack, failed: list[Failed]
) -> Iterator[tuple[Survey, RowFile]]:
    """Each file, and how it is shown to the model; what stops at one file goes to `failed`."""
    from runner.errors import StageFailed
    from runner.rows.seen import special_of
    from runner.scripts.data.special_text import SpecialText

    if not args.files and recipe is None:
        raise UsageError("name files of rows, or a recipe", hint=EXAMPLE)
    special = special_of(recipe) if recipe is not None else SpecialText(())
    for file in _files(args, recipe, failed):
        try:
            yield _surveyed(file, args, files, special)
        except (UsageError, StageFailed, MachineCannot) as error:
            failed.append((file.name, error))


def _files(args: argparse.Namespace, recipe: Any, failed: list[Failed]) -> list[RowFile]:
    """Those that are named, of format "" where it is to be guessed, or else the recipe's; of the
    recipe's, those that are not at hand go to `failed`."""
    from runner.rows.cleaned import steps_of
    from runner.rows.seen import RowFile, files_of

    columns, source, clean = columns_of(args), args.source or "", steps_of(recipe)
    named = [RowFile(path, str(path), source, columns, clean=clean) for path in args.files]
    return named or files_of(recipe, failed)


def _surveyed(
    file: RowFile, args: argparse.Namespace, files: ExitStack, special: SpecialText
) -> tuple[Survey, RowFile]:
    """A file, and how it is shown to the model. Raises RecipeToolError."""
    from runner.rows.opening import opened
    from runner.rows.survey import survey
    from runner.scripts.data.files.rows import MAX_SHOWN

    bad = args.bad
    if bad is None:
        bad = sys.maxsize if args.format == "json" else MAX_SHOWN
    plain = files.enter_context(opened(file.path, file.read))
    given, columns = file.format or None, file.columns
    found = survey(plain.path, file.name, args.rows, given, columns, bad, file.clean, special)
    found.left_out = plain.left_out
    columns = dict(found.columns)
    return found, replace(file, path=plain.path.resolve(), format=found.format, columns=columns)


def _seen(
    recipe: Any, found: Sequence[tuple[Survey, RowFile]], failed: list[Failed]
) -> list[dict[str, Any]]:
    """The first rows as the model will see them; why they cannot be shown goes to `failed`."""
    from runner.errors import StageFailed
    from runner.rows.seen import seen_rows

    count = max((len(each.first) for each, _ in found), default=0)
    try:
        return seen_rows(recipe, [file for _, file in found], count)
    except (StageFailed, MachineCannot) as error:
        failed.append((None, error))
        return []


def _count_dropped(
    recipe: Any, found: Sequence[tuple[Survey, RowFile]], failed: list[Failed]
) -> None:
    """Note what cleaning leaves out of each file; why it cannot be counted goes to `failed`."""
    from runner.errors import StageFailed
    from runner.rows.cleaned import COMPARING, steps_of
    from runner.rows.seen import dropped_rows

    steps = list(steps_of(recipe))
    counts: list[dict[str, int]] = [{} for _ in found]
    not_counted = [step for step in steps if step in COMPARING]
    try:
        counts = dropped_rows(recipe, [file for _, file in found])
    except (StageFailed, MachineCannot) as error:
        failed.append((None, error))
        not_counted = steps
    for (each, _), dropped in zip(found, counts, strict=True):
        each.dropped.update(dropped)
        each.not_counted = not_counted


def _lines(
    found: Sequence[tuple[Survey, RowFile]], rows: list[dict[str, Any]], *, seen: bool, color: bool
) -> Iterator[str]:
    from runner.rows.show import canonical_lines, seen_lines, survey_lines

    for number, (each, _) in enumerate(found):
        if number:
            yield ""
        yield from survey_lines(each)
        if not seen:
            yield from canonical_lines(each, color=color)
    yield from seen_lines(rows, color=color)
