"""What `--column` says, for the commands that read files by it."""

from __future__ import annotations

import argparse

from runner.errors import UsageError


def columns_of(args: argparse.Namespace) -> dict[str, str]:
    """Of --column. Raises UsageError."""
    from runner.scripts.data.formats import FIELDS

    named = dict(each.partition("=")[::2] for each in args.column)
    if named and args.source is None:
        raise UsageError("--column needs --from", hint="say which format the columns are for")
    for key, name in named.items():
        known = FIELDS[args.source]
        if key not in known or not name:
            raise UsageError(
                f"--column {key}={name}: format {args.source} reads {', '.join(known)}",
                hint="write KEY=NAME, such as output=answer",
            )
    return named
