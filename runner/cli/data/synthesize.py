"""`recipe data synthesize`: new rows, by asking a model."""

from __future__ import annotations

import argparse
import json
import sys
import time

from runner.errors import UsageError
from runner.report.beside import say_line


def main(args: argparse.Namespace) -> int:
    """Write OUT as a whole, or not at all; every answer is in the log beside it at once."""
    from runner.report.reporters import print_beside
    from runner.synthesis import command, report
    from runner.synthesis.settings import read_settings
    from runner.synthesis.synthesize import material_of

    if not args.check:
        _check_rows_out(args)
    settings = read_settings(args.file)
    material = material_of(settings)
    print_beside(report.foreseen(settings, material))
    if args.check:
        found = f"{len(material.seeds)} seed rows, {len(material.parts)} parts of documents"
        print(f"{args.file} is right: {settings.kind}, {found}")
        return 0
    told = command.Told(say_line, _Progress(settings.count))
    finished = command.run(
        settings, material, args.out, told, offline=args.offline, force=args.force
    )
    print_beside(report.warnings(settings, finished.result))
    if args.format == "json":
        said = report.as_data(settings, args.out, finished)
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return 0
    for line in report.lines(settings, args.out, finished):
        print(line)
    return 0


def _check_rows_out(args: argparse.Namespace) -> None:
    """Raises UsageError, before anything is read, where no rows can go there."""
    from runner.synthesis.output import check_output

    if args.out is None:
        raise UsageError("-o says where the rows go", hint="add -o rows.jsonl", code="E900")
    check_output(args.out)


class _Progress:
    """Says on a terminal, every few seconds, how many rows there are."""

    SECONDS = 5.0

    def __init__(self, wanted: int) -> None:
        self._wanted, self._said = wanted, time.monotonic()

    def __call__(self, rows: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._said >= self.SECONDS:
            self._said = time.monotonic()
            print(f"{rows} of {self._wanted} rows", file=sys.stderr)
