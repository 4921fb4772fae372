"""Read data files row by row, and know the line of every row. Standard library only.

JSONL: one object a line, blank lines ignored. JSON: one list of objects. Which of the two a file
is shows in its first character, not in its name. Tables (CSV, TSV) are told by their names, and
compressed files by their first bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runner.scripts.data.files.numbers import read_float

MAX_SHOWN = 10  # malformed rows named in one message
MAX_ROW_BYTES = 256 << 20  # of one line: a small compressed file can hold an endless one
MAX_LIST_BYTES = 2 << 30  # of a JSON list, which is read as a whole
_SPACE = " \t\r\n"


class RowError(Exception):
    """What is wrong with one row, in words for the person who wrote it."""

    def __init__(self, message: str, code: str = "E322") -> None:
        super().__init__(message)
        self.message, self.code = message, code


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row begins: the file as the recipe names it, and the line, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def __reduce__(self) -> tuple[type[Place], tuple[str, int]]:
        return Place, (self.file, self.line)


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be used."""

    place: Place
    error: RowError


Found = tuple[Place, dict[str, Any]] | Problem
Unread = tuple[Place, bytes | dict[str, Any]] | Problem  # of JSON lines the bytes of one
Rows = Iterator[Found]


def read_rows(path: Path, name: str, columns: Mapping[str, str] | None = None) -> Rows:
    """Objects of the file `path`, called `name` in messages. Broken rows come as Problems.

    `columns`: key that a format reads -> what the file calls it. Raises OSError when the file
    cannot be read.
    """
    for item in unread_rows(path, name):
        yield as_row(item, name, columns)


def unread_rows(path: Path, name: str) -> Iterator[Unread]:
    """As `read_rows`, for another process to make rows of by `as_row`."""
    with path.open("rb") as file:
        yield from _unpacked_rows(file, name)


def rows_of(file: IO[bytes], name: str, columns: Mapping[str, str] | None = None) -> Rows:
    """As `read_rows`, of an open file that can be rewound."""
    for item in _unpacked_rows(file, name):
        yield as_row(item, name, columns)


def as_row(item: Unread, name: str, columns: Mapping[str, str] | None) -> Found:
    """What one of `unread_rows` is."""
    if isinstance(item, Problem):
        return item
    place, held = item
    try:
        row = _object(decoded_whole(_text(held))) if isinstance(held, bytes) else held
        return place, as_format_reads(row, name, columns)
    except RowError as error:
        return Problem(place, error)


def as_format_reads(
    row: dict[str, Any], name: str, columns: Mapping[str, str] | None
) -> dict[str, Any]:
    """A row of the file `name` under the keys, and with the kinds, of a format. Raises RowError."""
    from runner.scripts.data.files.tables import is_table, typed

    named = renamed(row, columns) if columns else row
    return typed(named) if is_table(name) else named


def renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with each column under the key that a format reads. Raises RowError E348."""
    missing = next((each for each in columns.values() if each not in row), None)
    if missing is not None:
        raise RowError(f'the column "{missing}" is missing, which `columns` names', "E348")
    taken = set(columns.values())
    others = {key: value for key, value in row.items() if key not in taken}
    return {**others, **{key: row[column] for key, column in columns.items()}}


def _unpacked_rows(file: IO[bytes], name: str) -> Iterator[Unread]:
    from runner.scripts.data.files.packed_files import check_rows_at_all, unpacked
    from runner.scripts.data.files.tables import is_table, rows_of_table

    try:
        with unpacked(file) as plain:
            start = plain.read1(4096).lstrip(b"\xef\xbb\xbf").lstrip()
            plain.seek(0)
            check_rows_at_all(start)
            if is_table(name):
                yield from rows_of_table(plain, name)
                return
            yield from (_list_in if start.startswith(b"[") else _lines)(plain, name)
    except RowError as error:
        yield Problem(Place(name, 1), error)


def _list_in(file: IO[bytes], name: str) -> Rows:
    content = file.read(MAX_LIST_BYTES + 1)
    if len(content) > MAX_LIST_BYTES:
        raise RowError(f"a list of more than {MAX_LIST_BYTES >> 30} GiB is not read", "E349")
    yield from _rows_of_list(content, name)


def _lines(file: IO[bytes], name: str) -> Iterator[Unread]:
    number = 0
    while True:
        number += 1
        place = Place(name, number)
        try:
            line = file.readline(MAX_ROW_BYTES + 1)
        except RowError as error:  # what is compressed is damaged from here on
            yield Problem(place, error)
            return
        if not line:
            return
        if len(line) > MAX_ROW_BYTES:
            wrong = f"a line of more than {MAX_ROW_BYTES >> 20} MiB is not read"
            yield Problem(place, RowError(wrong, "E349"))
            return
        raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if row := raw.rstrip():
            yield place, row


def decoded_whole(text: str) -> Any:
    """The JSON value that `text` is. Raises RowError E321."""
    value, end = _decode(text, 0)
    if text[end:]:
        raise RowError("there is something after the end of the object", "E321")
    return value


def decoded(text: str, name: str) -> Any:
    """The JSON value inside a text of a row, called `name`. Raises RowError E322."""
    try:
        return decoded_whole(text.strip())
    except RowError as error:
        raise RowError(f"{name}: {error.message}") from None


def _rows_of_list(content: bytes, name: str) -> Rows:
    """A broken row ends the file: where the next one would begin is not known."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Problem(Place(name, line), RowError("the file is not UTF-8", "E320"))
        return
    lines = _Lines(text)
    position = _skip(text, text.index("[") + 1)
    if text.startswith("]", position):
        position += 1
    else:
        while True:
            place = Place(name, lines.line_of(position))
            try:
                value, position = _decode(text, position)
            except RowError as error:
                yield Problem(place, error)
                return
            try:
                yield place, _object(value)
            except RowError as error:
                yield Problem(place, error)
            position = _skip(text, position)
            mark = text[position : position + 1]
            position = _skip(text, position + 1)
            if mark == "]":
                break
            if mark != ",":
                place = Place(name, lines.line_of(min(position, len(text))))
                wrong = "the list is not closed" if not mark else "a comma is missing between rows"
                yield Problem(place, RowError(wrong, "E321"))
                return
    position = _skip(text, position)
    if position < len(text):
        place = Place(name, lines.line_of(position))
        yield Problem(place, RowError("there is something after the end of the list", "E321"))


class _Lines:
    """Line numbers of growing positions, in one pass over the text."""

    def __init__(self, text: str) -> None:
        self._text, self._position, self._line = text, 0, 1

    def line_of(self, position: int) -> int:
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"byte {error.start + 1} of the line is not UTF-8", "E320") from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(f"a row is an object, not {kind_of(value)}")
    return value


def _decode(text: str, position: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, _skip(text, position))
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise RowError(f"broken JSON: {error.msg} ({line}column {error.colno})", "E321") from None
    except RecursionError:
        raise RowError("the JSON is nested too deeply", "E321") from None
    except ValueError:  # Python reads no longer ones
        digits = sys.get_int_max_str_digits()
        raise RowError(f"a number has more than {digits} digits", "E321") from None
    return value, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise RowError(f'the key "{key}" occurs twice', "E321")
        seen[key] = value
    return seen


def _no_constant(name: str) -> Any:
    raise RowError(f"{name} is not JSON", "E321")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=read_float, parse_constant=_no_constant
)


def kind_of(value: Any) -> str:
    """The JSON kind of a value, in words."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def text_field(row: dict[str, Any], key: str, *, required: bool = True) -> str | None:
    """The text of `key`; None when it is missing or null and not required. Raises RowError."""
    if key not in row or (row[key] is None and not required):
        if required:
            raise RowError(f'"{key}" is missing')
        return None
    return checked_text(row[key], f'"{key}"')


def checked_text(value: Any, name: str) -> str:
    """`value` as a text that can be written as UTF-8. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}, not a text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(f"{name} holds half of a surrogate pair, which is no character", "E320")
    return value


def checked_value(value: Any, name: str) -> None:
    """Raises RowError where a text anywhere in a JSON value is none that can be written."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str):
            checked_text(each, f"a text in {name}")


def list_field(row: dict[str, Any], key: str) -> list[Any]:
    """The list of `key`. Raises RowError when it is missing, empty or something else."""
    if key not in row:
        raise RowError(f'"{key}" is missing')
    value = row[key]
    if not isinstance(value, list):
        raise RowError(f'"{key}" is {kind_of(value)}, not a list')
    if not value:
        raise RowError(f'"{key}" is empty')
    return value
