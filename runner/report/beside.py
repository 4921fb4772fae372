"""What a command says on stderr, beside its results. And an error of any command.

What a stranger's file put into the words is escaped here, so that no command has to think of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.report.printable import escaped, lines_escaped

if TYPE_CHECKING:
    from runner.errors import RecipeToolError


def say(message: str) -> None:
    """One or more lines on stderr."""
    print(lines_escaped(message), file=sys.stderr)


def say_line(message: str) -> None:
    """One line on stderr, whatever a server put into it."""
    print(escaped(message), file=sys.stderr)


def warn(message: str) -> None:
    """What is not as it should be, and keeps nothing from going on."""
    say(f"warning: {message}")


def error_data(error: RecipeToolError, file: str | None = None) -> dict[str, str | None]:
    """An error for --format json; `file`: whose fault it is, where it is one's."""
    return {"file": file, "code": error.code, "message": error.message, "hint": error.hint}


def error_lines(error: RecipeToolError) -> Iterator[str]:
    """An error as a terminal shows it."""
    yield f"error[{error.code}]: {lines_escaped(error.message)}"
    if log := getattr(error, "log", ""):
        yield f"  log:  {lines_escaped(log)}"
    if error.hint:
        yield f"  next: {lines_escaped(error.hint)}"
