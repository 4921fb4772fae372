"""What is wrong, where, and what to type next: the one shape that every reporter renders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem at one place. `code` is stable and explained in docs/errors.md.

    Lines and columns count characters from 1; the end column is the first one behind. A line of 0
    means the whole file.
    """

    code: str
    severity: Severity
    message: str
    file: str
    line: int = 0
    column: int = 0
    end_line: int = 0
    end_column: int = 0
    hint: str = ""

    @property
    def sort_key(self) -> tuple[str, int, int, str, str]:
        """Order in which a person fixes things: by file, then from top to bottom."""
        return (self.file, self.line, self.column, self.code, self.message)


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """What is no problem and good to know about a whole file."""

    file: str
    message: str


def severity_of(code: str) -> Severity:
    """E102 is an error, W201 a warning: the letter of the code says it."""
    return "warning" if code.startswith("W") else "error"


def has_errors(diagnostics: list[Diagnostic] | tuple[Diagnostic, ...]) -> bool:
    """Is there anything but warnings?"""
    return any(diagnostic.severity == "error" for diagnostic in diagnostics)


def each_once(checked: Mapping[Path, list[Diagnostic]]) -> Iterator[Diagnostic]:
    """What is wrong with recipes, by their files.

    What is wrong in a base is said once, however many recipes extend it, and by itself first.
    """
    told: set[tuple[str, int, int, str]] = set()
    for own in (True, False):
        for recipe, diagnostics in checked.items():
            fresh = [each for each in diagnostics if (each.file == str(recipe)) is own]
            places = {each: (os.path.realpath(each.file), *each.sort_key[1:4]) for each in fresh}
            yield from (each for each in fresh if own or places[each] not in told)
            told.update(places.values())
