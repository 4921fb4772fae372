"""Rules about Parquet files: they can be read, and have columns that the format reads.

Their footer says so, without the environment that reads their rows; values are told by `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from runner.recipe.finding import Finding, listed
from runner.recipe.model import DataFile, Recipe
from runner.report.printable import escaped, quoted
from runner.scripts.data.files.packed_files import PARQUET
from runner.scripts.data.files.parquet_footer import Column, Footer, FooterError, Kind, read_footer
from runner.scripts.data.formats import FIELDS
from runner.scripts.data.guess import guess_format
from runner.stages.rows.columns import read_columns
from runner.system.regular import NotReadable, open_regular

MAX_FILES = 50  # files of one recipe that are looked at
MAX_SHOWN = 10  # columns that are named
# Keys of every row of the format; the prompt of preferences may be implied.
REQUIRED = {
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "prompt": ("prompt",),
}
_TEXTS, _LISTS, _EITHER = (Kind.TEXT,), (Kind.LIST,), (Kind.TEXT, Kind.LIST)
KINDS = {
    **dict.fromkeys(("instruction", "input", "output", "system", "text"), _TEXTS),
    **dict.fromkeys(("history", "messages", "conversations"), _LISTS),
    **dict.fromkeys(("prompt", "completion", "chosen", "rejected", "tools"), _EITHER),
    "label": (Kind.BOOL,),
    "answer": (Kind.TEXT, Kind.NUMBER),
}


def footer_of(path: Path) -> Footer | None:
    """Of a Parquet file that can be read; else None."""
    try:
        return _read(path)
    except (FooterError, NotReadable, OSError):
        return None


def _read(path: Path) -> Footer | None:
    """None for a file of another kind. Raises FooterError, NotReadable, OSError."""
    with open_regular(path) as file:
        if file.read(len(PARQUET)) != PARQUET:
            return None
        return read_footer(file)


def check_parquet(recipe: Recipe) -> Iterator[Finding]:
    """A file that is damaged or without rows, columns that make no row, or a missing one."""
    for pointer, item in islice(recipe.data_files(), MAX_FILES):
        if item.path is None:
            continue
        try:
            footer = _read(recipe.resolve(item.path))
        except FooterError as error:
            message = f"{item.name} is no Parquet that can be read: {error}"
            yield Finding("E369", f"{pointer}/path", message, "fetch it, or write it, again")
            continue
        except (NotReadable, OSError):
            continue
        if footer is not None:
            yield from _check(recipe, pointer, item, footer)


def _check(recipe: Recipe, pointer: str, item: DataFile, footer: Footer) -> Iterator[Finding]:
    if not footer.rows:
        yield Finding("E369", f"{pointer}/path", f"{item.name} holds no rows", "name another file")
        return
    read = {*read_columns(item, recipe)}
    used = [column for column in footer.columns if column.name in read]
    for column in used:
        if column.unwritable():
            message = f"{item.name}: the column {quoted(column.name)} holds {Kind.NONE.value}"
            hint = "write it as texts, numbers or lists of them, or name another column"
            yield Finding("E371", f"{pointer}/path", message, hint)
            return
    if wrong := _misfit(footer.columns, item):
        message = f"the columns of {item.name} make no row of format {item.format}: {wrong}"
        yield Finding("E371", f"{pointer}/format", message, escaped(_hint(footer.columns, item)))
    elif pointer.startswith("/data/train/"):
        yield from _check_split(recipe, item, footer)


def _misfit(columns: Sequence[Column], item: DataFile) -> str:
    """Why no row of such columns is one of the file's format; "" when one can be."""
    names = item.columns or {}
    found = {column.name: column.kind for column in columns}
    for field in FIELDS[item.format]:
        name = names.get(field, field)
        if name not in found:
            if field in REQUIRED[item.format] or field in names:
                return f"{quoted(name)} is missing"
        elif found[name] not in KINDS[field] and not _may_be_null(field, found[name], item):
            return f"{quoted(name)} holds {found[name].value}, not {_either(KINDS[field])}"
    return ""


def _may_be_null(field: str, kind: Kind, item: DataFile) -> bool:
    return kind is Kind.NULL and field not in REQUIRED[item.format]


def _either(kinds: Sequence[Kind]) -> str:
    return " or ".join(kind.value for kind in kinds)


def _hint(columns: Sequence[Column], item: DataFile) -> str:
    guess = guess_format([sample_row(columns)])
    if guess and (guess.format, dict(guess.columns)) != (item.format, item.columns or {}):
        return f"it looks like {guess.format}: write {guess.to_write}"
    names = [quoted(column.name, 30) for column in columns[:MAX_SHOWN]]
    return f"its columns are {listed(names)}" if names else "it has no columns"


def _check_split(recipe: Recipe, item: DataFile, footer: Footer) -> Iterator[Finding]:
    names = {column.name for column in footer.columns}
    for setting in ("group_by", "stratify"):
        column = getattr(recipe.data.validation, setting)
        if column is not None and column not in names:
            message = f"{item.name} has no column {quoted(column)}"
            hint = "name a column that the rows of every file have"
            yield Finding("E255", f"/data/validation/{setting}", message, hint)


# --- a row as the columns allow it


_ROLES = {"role": ("user", "assistant"), "from": ("human", "gpt")}


def sample_row(columns: Sequence[Column]) -> dict[str, Any]:
    """A row with a value of its kind in each column; of turns, a question and an answer."""
    return {column.name: _value(column) for column in columns}


def _value(column: Column) -> Any:
    if column.kind is Kind.LIST:
        return _entries(column.parts[0])
    if column.kind is Kind.OBJECT:
        return {part.name: _value(part) for part in column.parts}
    return {Kind.TEXT: "text", Kind.BOOL: True, Kind.NUMBER: 1}.get(column.kind)


def _entries(entry: Column) -> list[Any]:
    if entry.kind is not Kind.OBJECT:
        return [_value(entry)] * 2
    parts = {part.name: _value(part) for part in entry.parts}
    said_by = next((name for name in _ROLES if name in parts), None)
    if said_by is None:
        return [parts]
    told = {name: parts[name] for name in parts if name in ("content", "value")}
    return [{**told, said_by: role} for role in _ROLES[said_by]]
