"""Render diagnostics. A new format is one function here, or a module, and one line in REPORTERS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TextIO

from runner.errors import RecipeInvalid
from runner.report.diagnostic import Diagnostic
from runner.report.printable import escaped, one_column_each, without_tokens

JSON_VERSION = 1
MAX_SHOWN_WIDTH = 160  # of a source line; longer ones are cut around the caret


class Reporter(Protocol):
    """Diagnostics -> text, with a line end. `files` is how many files were checked."""

    def __call__(
        self, diagnostics: Sequence[Diagnostic], *, files: int | None = None, color: bool = False
    ) -> str:
        """The whole report."""
        ...


def wants_color(stream: TextIO) -> bool:
    """Only on a terminal, and only where NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


# --- text


_COLORS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "place": "\x1b[1m", "hint": "\x1b[36m"}


def text(
    diagnostics: Sequence[Diagnostic], *, files: int | None = None, color: bool = False
) -> str:
    """For people: `file:line:column: error[E102]: message`, the line, a caret, what to do."""
    lines = _SourceLines()
    blocks = [_block(diagnostic, lines, color) for diagnostic in diagnostics]
    if files is not None:
        blocks.append(_summary(diagnostics, files))
    return "".join(blocks)


def _block(diagnostic: Diagnostic, lines: _SourceLines, color: bool) -> str:
    place = escaped(diagnostic.file)
    if diagnostic.line:
        place += f":{diagnostic.line}:{diagnostic.column}"
    kind = f"{diagnostic.severity}[{diagnostic.code}]"
    head = (
        f"{_painted(place, 'place', color)}: {_painted(kind, diagnostic.severity, color)}: "
        f"{escaped(diagnostic.message)}\n"
    )
    hint = f"  {_painted('hint', 'hint', color)}: {escaped(diagnostic.hint)}\n"
    return head + _snippet(diagnostic, lines, color) + (hint if diagnostic.hint else "")


def _painted(words: str, kind: str, color: bool) -> str:
    return f"{_COLORS[kind]}{words}\x1b[0m" if color else words


def _snippet(diagnostic: Diagnostic, lines: _SourceLines, color: bool) -> str:
    """The line with a caret below; nothing when there is no line to show."""
    line = lines.get(diagnostic.file, diagnostic.line)
    if line is None:
        return ""
    start = diagnostic.column - 1
    one_line = diagnostic.end_line == diagnostic.line
    end = diagnostic.end_column - 1 if one_line else len(line)
    cut = max(0, start - MAX_SHOWN_WIDTH // 2)
    line = one_column_each(line[cut : cut + MAX_SHOWN_WIDTH])
    start, end = start - cut, min(end - cut, len(line))
    before = " " * _width(line[:start])
    carets = "^" * max(1, _width(line[start:end]))
    number = f"{diagnostic.line:>5} | "
    blank = " " * (len(number) - 2) + "| "
    return f"{number}{line}\n{blank}{before}{_painted(carets, diagnostic.severity, color)}\n"


def _width(text: str) -> int:
    """Columns of `text` on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


class _SourceLines:
    """Lines of the files that diagnostics point into, each file read once and bounded in size."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def get(self, file: str, number: int) -> str | None:
        """Line `number` (from 1) of `file`; None when it cannot be had."""
        if not number:
            return None
        if file not in self._files:
            self._files[file] = _read_lines(file)
        lines = self._files[file]
        return without_tokens(lines[number - 1]) if number <= len(lines) else None


def _read_lines(file: str) -> list[str]:
    from runner.recipe.source import read_bytes

    try:
        content = read_bytes(Path(file))
    except RecipeInvalid:
        return []
    text = content.decode("utf-8", errors="replace").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _summary(diagnostics: Sequence[Diagnostic], files: int) -> str:
    errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
    warnings = len(diagnostics) - errors
    if not diagnostics:
        return f"{_counted(files, 'recipe')} checked: all valid\n"
    counts = [_counted(errors, "error")] if errors else []
    counts += [_counted(warnings, "warning")] if warnings else []
    return f"{_counted(files, 'recipe')} checked: {', '.join(counts)}\n"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- JSON


def json(
    diagnostics: Sequence[Diagnostic], *, files: int | None = None, color: bool = False
) -> str:
    """For programs: one object, `version` raised when its shape changes. ASCII only."""
    import json as codec

    errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
    report = {
        "version": JSON_VERSION,
        "files": files,
        "errors": errors,
        "warnings": len(diagnostics) - errors,
        "diagnostics": [asdict(diagnostic) for diagnostic in diagnostics],
    }
    return codec.dumps(report, indent=2) + "\n"


REPORTERS: dict[str, Reporter] = {"text": text, "json": json}
