"""`recipe data convert`: a file of rows in another format, whole or not at all."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from runner.cli.data.columns import columns_of
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.rows.opening import Plain
    from runner.scripts.data.convert import Converted


def main(args: argparse.Namespace) -> int:
    """Write OUT as a whole, or not at all."""
    from runner.rows.destination import STDOUT
    from runner.rows.opening import opened
    from runner.rows.show import rows_words

    spoken = str(args.out) == STDOUT
    if not spoken:
        _check_out(args)
    with opened(args.file) as plain:
        done = _converted(args, plain)
    are, where = "is" if done.written == 1 else "are", "written" if spoken else f"in {args.out}"
    print(
        f"{rows_words(done.written)} of format {args.target} {are} {where}",
        file=sys.stderr if spoken else sys.stdout,
    )
    for line in _lost(done):
        print(line, file=sys.stderr)
    return 0


def _check_out(args: argparse.Namespace) -> None:
    """Raises UsageError where no file is to be written under that name."""
    from runner.rows.destination import NAMES, check_folder

    if not args.out.name.lower().endswith(NAMES):
        raise UsageError(
            f"{args.out} has none of the endings {', '.join(NAMES)}",
            hint="name the file by what is to be written into it",
            code="E868",
        )
    if args.out.is_dir():
        raise UsageError(
            f"{args.out} is a folder, not a file",
            hint=f"name a file in it: {args.out}/rows.jsonl",
            code="E866",
        )
    if args.out.exists() and not args.force:
        raise UsageError(
            f"{args.out} exists", hint="write --force to replace it, or another name", code="E866"
        )
    check_folder(args.out)


def _converted(args: argparse.Namespace, plain: Plain) -> Converted:
    """Write OUT. Raises UsageError, MachineCannot."""
    from runner.report.printable import escaped
    from runner.rows.destination import write_whole
    from runner.rows.survey import guess_file, not_guessed
    from runner.scripts.data.convert import convert
    from runner.scripts.data.files.rows import Place
    from runner.store.atomic import disk_errors

    rows, source, columns = plain.path, args.source, columns_of(args)
    if source is None:
        guess = guess_file(rows, args.file.name)
        if guess is None:
            raise not_guessed(rows, str(args.file))
        source, columns = guess.format, dict(guess.columns)
        print(escaped(f"{args.file} {guess}"), file=sys.stderr)

    def make(out: IO[bytes], shape: str) -> Converted:
        done = convert(rows, args.file.name, out, shape, source, args.target, columns)
        for name, why in plain.left_out.items():
            done.lost[f'the column "{name}", which is no JSON ({why})'] = (
                done.read,
                Place(args.file.name, 1),
            )
        _refuse(args, done, source)
        return done

    with disk_errors(f"writing {args.out}", args.out):
        return write_whole(args.out, make)


def _refuse(args: argparse.Namespace, done: Converted, source: str) -> None:
    """Raises UsageError, so that nothing is written, where rows are bad or would lose something."""
    from runner.report.printable import escaped
    from runner.rows.survey import no_rows

    if done.unreadable:
        lines = [f"{each.place}: {each.error.message}" for each in done.problems]
        more = ""
        if done.unreadable > len(lines):
            lines.append(f"and {done.unreadable - len(lines)} more rows")
            more = f" --bad {done.unreadable}"
        raise UsageError(
            "\n  ".join(["rows cannot be read; nothing is written:", *map(escaped, lines)]),
            hint=f"correct them: {_to_inspect(args)}{more}",
            code="E867",
        )
    if not done.read:
        raise no_rows(str(args.file))
    lost = {**done.unfit, **done.lost}
    if lost and not (args.lossy and done.written):
        by_format = bool(lost.keys() - done.by_file)
        holder = f"format {args.target}" if by_format else _file_kind(args.out)
        wrong = f"{holder} cannot hold all of it; nothing is written:"
        raise UsageError(
            "\n  ".join([wrong, *_lost(done)]),
            hint=", or ".join(_instead(args, done, source, by_format=by_format)),
            code="E865",
        )


def _file_kind(out: Path) -> str:
    """What a file of such a name is, in words; - is JSON lines."""
    name = out.name.lower()
    if name.endswith(".parquet"):
        return "a file of Parquet"
    return "a table" if {".csv", ".tsv"} & set(Path(name).suffixes) else "a file of JSON"


def _instead(
    args: argparse.Namespace, done: Converted, source: str, *, by_format: bool
) -> Iterator[str]:
    """What to do where something is lost; `by_format`: by the format, not the file alone."""
    if done.written:
        yield "write --lossy to lose it"
    if done.by_file:
        others = "" if args.out.name.lower().endswith(".parquet") else " or .parquet"
        yield f"name OUT .jsonl{others}, which holds it"
    if by_format and (holders := done.holders(source)):
        yield f"choose another format, which holds it: {' or '.join(holders)}"
    elif by_format and not done.written:
        yield f"keep format {source}: no other holds all of it; docs/data.md says what each holds"


def _to_inspect(args: argparse.Namespace) -> str:
    """The command that shows the same file, read in the same way."""
    words = ["recipe", "data", "inspect", str(args.file)]
    words += ["--from", args.source] if args.source else []
    for each in args.column:
        words += ["--column", each]
    return shlex.join(words)


def _lost(done: Converted) -> Iterator[str]:
    """What of rows is lost, and which rows are left out as a whole."""
    from runner.report.printable import escaped
    from runner.rows.show import rows_words

    for why, (count, place) in done.unfit.items():
        yield escaped(f"left out: {rows_words(count)}, the first at {place}: {why}")
    for what, (count, place) in done.lost.items():
        yield escaped(f"lost: {what}: {rows_words(count)}, the first at {place}")
