"""Markdown for a pull request's page, in which nothing of a recipe is more than text.

A stranger's recipe must not mention people, load pictures or end a block of ours, so all that comes
from one stands in code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from runner.report.printable import escaped, without_tokens


def code(text: str) -> str:
    """`text` on one line as code, also inside of a table."""
    line = escaped(without_tokens(text)).replace("|", "\\|")
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(lines: Iterable[str], *, most: int) -> list[str]:
    """A block of code, at most `most` lines of it; how many are left out is said."""
    shown = [escaped(without_tokens(line)) for line in lines]
    if len(shown) > most:
        shown = [*shown[:most], f"… and {len(shown) - most} more"]
    fence = _fence("\n".join(shown), 3)
    return [f"{fence}text", *shown, fence]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; cells are Markdown already."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _fence(text: str, least: int) -> str:
    """Backticks, more than `text` has in a row."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])
