"""Render diagnostics. A new format is one function here, or a module, and one line in REPORTERS."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TextIO

from runner.errors import RecipeInvalid
from runner.report.diagnostic import Diagnostic, Note
from runner.report.printable import escaped, one_column_each, without_secrets

JSON_VERSION = 1
MAX_SHOWN_WIDTH = 160  # of a source line; longer ones are cut around the caret


class Reporter(Protocol):
    """Diagnostics -> text, with a line end. `files` is how many files were checked."""

    def __call__(
        self,
        diagnostics: Sequence[Diagnostic],
        *,
        files: int | None = None,
        color: bool = False,
        notes: Sequence[Note] = (),
    ) -> str:
        """The whole report."""
        ...


def wants_color(stream: TextIO) -> bool:
    """Only on a terminal, and only where NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


# --- text


_COLORS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "place": "\x1b[1m", "hint": "\x1b[36m"}


def text(
    diagnostics: Sequence[Diagnostic],
    *,
    files: int | None = None,
    color: bool = False,
    notes: Sequence[Note] = (),
) -> str:
    """For people: `file:line:column: error[E102]: message`, the line, a caret, what to do."""
    lines = _SourceLines()
    blocks = [_block(diagnostic, lines, color) for diagnostic in diagnostics]
    blocks += [f"{escaped(note.file)}: note: {escaped(note.message)}\n" for note in notes]
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
    """Lines of the files that diagnostics point into, bounded in size.

    One file at a time is held: diagnostics come sorted by file, and there may be thousands.
    """

    def __init__(self) -> None:
        self._file, self._lines = "", list[str]()

    def get(self, file: str, number: int) -> str | None:
        """Line `number` (from 1) of `file`; None when it cannot be had."""
        if not number:
            return None
        if file != self._file:
            self._file, self._lines = file, _read_lines(file)
        if number > len(self._lines):
            return None
        return without_secrets(self._lines[number - 1], *self._lines[number - 2 : number - 1])


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
    diagnostics: Sequence[Diagnostic],
    *,
    files: int | None = None,
    color: bool = False,
    notes: Sequence[Note] = (),
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
        "notes": [asdict(note) for note in notes],
    }
    return codec.dumps(report, indent=2) + "\n"


# --- GitHub


def github(
    diagnostics: Sequence[Diagnostic],
    *,
    files: int | None = None,
    color: bool = False,
    notes: Sequence[Note] = (),
) -> str:
    """Workflow commands that GitHub shows beside the line. Worst first: it shows about ten.

    Nothing of a recipe, nor its name, begins a line: it could be a command of its own.
    """
    worst_first = sorted(diagnostics, key=lambda diagnostic: diagnostic.severity != "error")
    commands = "".join(f"{_command(diagnostic)}\n" for diagnostic in worst_first)
    return commands + (_summary(diagnostics, files) if files is not None else "")


def _command(diagnostic: Diagnostic) -> str:
    """`::error file=…,line=…,title=E102::message`."""
    # Without `..`, else GitHub does not find the file.
    properties: dict[str, str | int] = {"file": os.path.normpath(diagnostic.file)}
    if diagnostic.line:
        properties |= {
            "line": diagnostic.line,
            "endLine": diagnostic.end_line,
            "col": diagnostic.column,
            "endColumn": diagnostic.end_column,
        }
    properties["title"] = diagnostic.code
    said = ",".join(f"{name}={_as_property(value)}" for name, value in properties.items())
    hint = f"\nhint: {escaped(diagnostic.hint)}" if diagnostic.hint else ""
    return f"::{diagnostic.severity} {said}::{_as_data(escaped(diagnostic.message) + hint)}"


def _as_data(words: str) -> str:
    """Escaped as the runner's own toolkit does, so that no text can become a command."""
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _as_property(value: str | int) -> str:
    """A name of a file that is no text stays a name that can be written: its bytes, escaped."""
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _as_data(text).replace(":", "%3A").replace(",", "%2C")


def sarif(
    diagnostics: Sequence[Diagnostic],
    *,
    files: int | None = None,
    color: bool = False,
    notes: Sequence[Note] = (),
) -> str:
    """SARIF 2.1.0, for code scanning."""
    from runner.report.sarif import log

    return log(diagnostics)


REPORTERS: dict[str, Reporter] = {"text": text, "json": json, "github": github, "sarif": sarif}


def print_beside(diagnostics: Sequence[Diagnostic]) -> None:
    """As text on stderr, for a command whose stdout says something else; nothing for none."""
    sys.stderr.write(text(diagnostics, color=wants_color(sys.stderr)))
