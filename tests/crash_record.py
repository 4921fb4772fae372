"""The table of faults: what the full tests injected, and what became of it.

usage: python -m tests.crash_record        prints the table of docs/reproducibility.md

The full tests write tests/crash-results.json, one row each.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).with_name("crash-results.json")
HEAD = ("what is disturbed", "by", "faults", "survived", "lost", "left over after `recipe gc`")
WORDS = {"kill": "kill -9", "full-disk": "a full disk", "io-error": "an input/output error"}


@dataclass(frozen=True)
class Row:
    """One line. `survived`: the same command, run again, gave the undisturbed manifest."""

    what: str
    mode: str
    injected: int
    survived: int
    lost: int
    leftovers: int


def read_rows() -> list[Row]:
    """The rows as committed, in their order."""
    rows = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    return [Row(**row) for row in rows]


def write_row(row: Row) -> None:
    """Put the row in place of the one of the same name, and print it."""
    print(f"\n{row}")
    rows = {(each.what, each.mode): each for each in read_rows()} | {(row.what, row.mode): row}
    data = [asdict(each) for _, each in sorted(rows.items())]
    FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def table() -> str:
    """The rows in Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|--:|--:|--:|--:|"]
    for row in read_rows():
        cells = (row.what, WORDS.get(row.mode, row.mode), row.injected, row.survived)
        lines.append("| " + " | ".join(map(str, (*cells, row.lost, row.leftovers))) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
