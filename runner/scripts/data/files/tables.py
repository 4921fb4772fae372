"""Rows of CSV and TSV files: a line of column names, then texts. Standard library only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, Any

from runner.scripts.data.files.packed_files import bare_name
from runner.scripts.data.files.rows import MAX_ROW_BYTES, Place, Problem, RowError, Rows, decoded

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# What no text can be: these cells are JSON, and an empty one is none.
JSON_COLUMNS = ("messages", "conversations", "history", "tools")
_KEPT = "surrogateescape"  # a byte that is not UTF-8 becomes half a character, of U+DC80 to U+DCFF
_LABELS = {"true": True, "false": False}


@lru_cache(maxsize=256)  # asked for every row
def is_table(name: str) -> bool:
    """By the name of a file, whether compressed or not."""
    return separator_of(name) is not None


def separator_of(name: str) -> str | None:
    """What stands between the cells of a table; None for other files."""
    bare = bare_name(name)
    return next((mark for end, mark in _SEPARATORS.items() if bare.endswith(end)), None)


def rows_of_table(file: IO[bytes], name: str) -> Rows:
    """Each line of the table as an object of texts. A broken one ends the file, but for a cell that
    is not UTF-8: where the next line begins is known all the same."""
    separator = separator_of(name)
    assert separator is not None
    csv.field_size_limit(MAX_ROW_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors=_KEPT, newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    try:
        yield from _rows(reader, name)
    except csv.Error as error:
        yield Problem(Place(name, reader.line_num), RowError(f"broken table: {error}", "E351"))
    except RowError as error:  # what is compressed is damaged from here on
        yield Problem(Place(name, reader.line_num + 1), error)
    finally:
        text.detach()


def _rows(reader: Any, name: str) -> Rows:
    header: list[str] = []
    for cells, line in _lines(reader):
        place = Place(name, line)
        if number := _not_utf_8(cells):
            yield Problem(place, RowError(f"cell {number} is not UTF-8", "E320"))
            if not header:
                return
        elif not header:
            header = cells
            if twice := next((each for each in header if header.count(each) > 1), None):
                yield Problem(place, RowError(f'the column "{twice}" occurs twice', "E351"))
                return
        elif len(cells) != len(header):
            wrong = f"{len(cells)} cells, but there are {len(header)} columns"
            yield Problem(place, RowError(wrong, "E351"))
        else:
            yield place, dict(zip(header, cells, strict=True))


def _not_utf_8(cells: list[str]) -> int:
    """The number of the first cell with a byte that was kept as it is; 0 without one."""
    for number, cell in enumerate(cells, 1):
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            return number
    return 0


def _lines(reader: Any) -> Iterator[tuple[list[str], int]]:
    """Cells and the line that they begin in; empty lines are left out."""
    line = 1
    for cells in reader:
        if cells:
            yield cells, line
        line = reader.line_num + 1


def typed(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a table with lists and labels instead of their texts, and no empty answer.

    Raises RowError.
    """
    made: dict[str, Any] = {}
    for key, text in row.items():
        if key in JSON_COLUMNS:
            if text.strip():
                made[key] = decoded(text, f'"{key}"')
        elif key == "label":
            made[key] = _LABELS.get(text.strip().lower(), text)
        elif key == "answer" and "prompt" in row and not text.strip():
            made[key] = None  # of format `prompt`, where a row may have none
        else:
            made[key] = text
    return made
