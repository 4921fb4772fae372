"""What to do with a file of rows that cannot be read at all, or whose keys say nothing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from runner.report.printable import quoted
from runner.scripts.data.files.packed_files import LIBRARY_SUFFIXES, is_packed
from runner.scripts.data.files.rows import MAX_SHOWN, Problem
from runner.scripts.data.files.tables import is_table
from runner.scripts.data.guess import guess_format

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_START = 4096  # bytes of the file that are looked at


def advice(
    path: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    problems: Sequence[Problem],
    wanted: str = "",
) -> str:
    """The next step, for a mistake that is often made; "" for others.

    `rows` and `problems`: the first ones of the file `path`, called `name`. `wanted`: the format
    that it was read as. Raises OSError.
    """
    with path.open("rb") as file:
        start = file.read(_START)
    word = shlex.quote(name)
    if problems and (order := _utf_16_without_mark(start)):
        return f"save it as UTF-8: iconv -f {order} -t UTF-8 {word} > NEW"
    if is_table(name) and _is_cut_elsewhere(start, rows):
        cut = "its cells look cut by another mark: write the table with commas, or tabs in .tsv"
        bytes_first = _of_problem(problems[0].error.code, start, word) if problems else ""
        return f"{bytes_first}; {cut}" if bytes_first else cut
    if _is_packed(start, name):
        return f"the first row has {keys_of(rows[0])}" if _lack_columns(rows, problems) else ""
    if len(rows) == 1 and guess_format(rows) is None and (key := _key_of_rows(rows[0])):
        return f"its rows are under {key}: jq -c '.[{key}][]' {word} > NEW.jsonl"
    if not is_table(name) and rows and (key := _key_of_json(rows[0])):
        return f"its {key} are texts of JSON: jq -c '.[{key}] |= fromjson' {word} > NEW.jsonl"
    if len(rows) == 1 and problems and _is_of_columns(rows[0]):
        return (
            "it is one object of columns, not a row a line: in pandas write it by "
            'df.to_json("NEW.jsonl", orient="records", lines=True)'
        )
    if _lack_columns(rows, problems):
        return f"the first row has {keys_of(rows[0])}"
    if (
        problems
        and problems[0].error.code in ("E322", "E335")
        and (words := _columns(rows, wanted))
    ):
        return words
    if no_data := plain_text(path, name, rows, problems):
        return no_data
    return _of_problem(problems[0].error.code, start, word) if problems else ""


def plain_text(
    path: Path, name: str, rows: Sequence[Mapping[str, Any]], problems: Sequence[Problem]
) -> str:
    """What to do with a file that holds no JSON at all; "" for others. Raises OSError."""
    if rows or is_table(name) or any(each.error.code != "E321" for each in problems):
        return ""
    with path.open("rb") as file:
        start = file.read(_START).lstrip(b"\xef\xbb\xbf").lstrip()
    if not problems or is_packed(start) or start.startswith((b"{", b"[")):
        return ""
    return (
        'write a row for each document: {"text": "..."}, which is format text; or have questions '
        "made of it: docs/synthesis.md; a table is read where its name ends in .csv or .tsv"
    )


def _columns(rows: Sequence[Mapping[str, Any]], wanted: str) -> str:
    """How to name the columns of rows that have the keys of a format under other names."""
    guess = guess_format(rows)
    if guess is None or guess.format != wanted or not guess.columns:
        return ""
    words = [f"--column {shlex.quote(f'{key}={name}')}" for key, name in guess.columns.items()]
    return f"name its columns: {' '.join(words)}; in a recipe: {guess.to_write}"


def _is_packed(start: bytes, name: str) -> bool:
    """Is the file one that no tool for texts reads?"""
    return is_packed(start) or name.lower().endswith(LIBRARY_SUFFIXES)


def _lack_columns(rows: Sequence[Mapping[str, Any]], problems: Sequence[Problem]) -> bool:
    return bool(rows and problems and problems[0].error.code == "E348")


def keys_of(row: Mapping[str, Any]) -> str:
    """The first keys of a row, to be shown."""
    return ", ".join(quoted(key, 40) for key in islice(row, MAX_SHOWN))


def _of_problem(code: str, start: bytes, word: str) -> str:
    if code == "E320" and start.startswith(_UTF_16):
        return f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 {word} > NEW"
    if code == "E320" and b"\0" not in start:
        return f"save it as UTF-8: iconv -f LATIN1 -t UTF-8 {word} > NEW"
    if code == "E321" and b"\r" in start.strip() and b"\n" not in start:
        return f"its lines end by a carriage return alone: tr '\\r' '\\n' < {word} > NEW.jsonl"
    first, end, _ = start.lstrip().partition(b"\n")  # without an end it is longer, and cut off
    first = first.rstrip()
    if code == "E321" and end and first.startswith(b"{") and first.endswith((b"{", b",", b"[")):
        return f"its objects take several lines; one a line is read: jq -c . {word} > NEW.jsonl"
    return ""


def _utf_16_without_mark(start: bytes) -> str:
    """The order of bytes of a text of which every other byte is zero; "" for others."""
    if len(start) < 4 or is_packed(start):
        return ""
    halves = {"UTF-16LE": (start[1::2], start[::2]), "UTF-16BE": (start[::2], start[1::2])}
    for order, (zeros, others) in halves.items():
        if 2 * zeros.count(0) > len(zeros) and 0 not in others:
            return order
    return ""


def _key_of_json(row: Mapping[str, Any]) -> str:
    """The key, as JSON, whose text is a list of turns in JSON; "" without such a key."""
    for key, value in row.items():
        if not isinstance(value, str) or not value.lstrip().startswith("[") or "'" in key:
            continue
        try:
            turns = json.loads(value)
        except (ValueError, RecursionError):
            continue
        if turns and isinstance(turns[0], dict) and turns[0].keys() & {"role", "from"}:
            return json.dumps(key)
    return ""


def _is_of_columns(row: Mapping[str, Any]) -> bool:
    """Is every value a list of texts or numbers, or an object of them by number, equally many?"""
    columns = [value for value in row.values() if isinstance(value, list | dict) and value]
    if len(columns) != len(row) or len(row) < 2 or len({len(each) for each in columns}) > 1:
        return False
    if all(isinstance(each, dict) for each in columns):
        return all(key.isdigit() for each in columns for key in each)
    return not any(isinstance(cell, list | dict) for each in columns for cell in each)


def _is_cut_elsewhere(start: bytes, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Is the line of column names one name, with a mark that others put between cells?"""
    names = [*rows[0]] if rows else [start.split(b"\n")[0].decode("utf-8", "replace")]
    return len(names) == 1 and any(mark in names[0] for mark in ";\t|") and "," not in names[0]


def _key_of_rows(row: Mapping[str, Any]) -> str:
    """The one key, as JSON, that holds a list of objects; "" without such a key."""
    keys = [
        json.dumps(key)
        for key, value in row.items()
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    ]
    return keys[0] if len(keys) == 1 and "'" not in keys[0] else ""
