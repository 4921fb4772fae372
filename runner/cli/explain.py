"""`recipe explain`: what a code means, why it comes, and the fix; `recipe explain E102`."""

from __future__ import annotations

import argparse

from runner.errors import UsageError
from runner.recipe.suggest import nearest
from runner.report.explanations import explained, title

HELP = "Print the cause of an error or a warning and its fix; without a code, list all of them."
EXAMPLE = "recipe explain E102"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe explain`."""
    parser.add_argument("codes", nargs="*", metavar="CODE", help="such as E102 or W206")


def main(args: argparse.Namespace) -> int:
    """Print the sections of the page of errors. Raises UsageError (E004) on an unknown code."""
    sections = explained()
    if not args.codes:
        for code, text in sections.items():
            print(f"{code}  {title(text)}")
        return 0
    codes = [code.upper().strip("[]") for code in args.codes]
    for code in codes:
        if code not in sections:
            near = nearest(code, sections)
            raise UsageError(
                f"there is no code {code}" + (f"; did you mean {near}?" if near else ""),
                hint="`recipe explain` lists all codes",
                code="E004",
            )
    print("\n\n".join(sections[code] for code in codes))
    return 0
