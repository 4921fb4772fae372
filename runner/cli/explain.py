"""`recipe explain`: what a code means, why it comes, and the fix; `recipe explain E102`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from runner.errors import UsageError
from runner.recipe.suggest import nearest
from runner.report.explanations import explained, title

HELP = "Print the cause of an error or a warning and its fix; without a code, list all of them."
EXAMPLE = "recipe explain E102"
_CODE = re.compile(r"[A-Z]?[0-9]+")
_MOST = 5  # codes that a word is answered with


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
    for code, typed in zip(codes, args.codes, strict=True):
        if code not in sections:
            raise _unknown(code, sections) if _CODE.fullmatch(code) else _no_code(typed, sections)
    print("\n\n".join(sections[code] for code in codes))
    return 0


def _unknown(code: str, sections: Mapping[str, str]) -> UsageError:
    near = nearest(code, sections)
    return UsageError(
        f"there is no code {code}" + (f"; did you mean {near}?" if near else ""),
        hint="`recipe explain` lists all codes",
        code="E004",
    )


def _no_code(typed: str, sections: Mapping[str, str]) -> UsageError:
    """Of a word, which may be what a code is about."""
    about = [
        f"{code} {title(text)}"
        for code, text in sections.items()
        if typed.casefold() in title(text).casefold()
    ]
    told = f"codes about it: {'; '.join(about[:_MOST])}. " if about else ""
    return UsageError(
        f"{typed[:80]!r} is no code of an error (such as E102) or a warning (such as W206)",
        hint=f"{told}`recipe explain` lists all codes with what they are about",
        code="E004",
    )
