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
    if is_table(name) and _is_cut_elsewhere(start, rows):
        return "its cells look cut by another mark: write the table with commas, or tabs in .tsv"
    if _is_packed(start, name):
        return f"the first row has {keys_of(rows[0])}" if _lack_columns(rows, problems) else ""
    if len(rows) == 1 and guess_format(rows) is None and (key := _key_of_rows(rows[0])):
        return f"its rows are under {key}: jq -c '.[{key}][]' {word} > NEW.jsonl"
    if _lack_columns(rows, problems):
        return f"the first row has {keys_of(rows[0])}"
    if problems and problems[0].error.code == "E322" and (words := _columns(rows, wanted)):
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
    first, end, _ = start.lstrip().partition(b"\n")  # without an end it is longer, and cut off
    first = first.rstrip()
    if code == "E321" and end and first.startswith(b"{") and first.endswith((b"{", b",", b"[")):
        return f"its objects take several lines; one a line is read: jq -c . {word} > NEW.jsonl"
    return ""


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
