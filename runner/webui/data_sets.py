"""The files of rows of a recipe, registered as LLaMA Factory's data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.backends.llamafactory_rows import TURNS
from runner.capture.data_sets import INFO, USUAL_COLUMNS
from runner.store.atomic import write_atomic

# The recipe's name of a form of rows -> what LLaMA Factory must be told of it.
_ENTRIES: dict[str, dict[str, Any]] = {
    "alpaca": {},
    "messages": TURNS,
    "sharegpt": {"formatting": "sharegpt"},
    "prompt-completion": {"columns": {"prompt": "prompt", "response": "completion"}},
    "text": {"columns": {"prompt": "text"}},
    "preference": {
        "ranking": True,
        "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    },
    "kto": {"columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"}},
    "prompt": {"columns": {"prompt": "prompt", "response": "answer"}},
}


def names(recipe_name: str, count: int) -> list[str]:
    """What the data sets of a recipe are called in the form.

    >>> names("faq", 1), names("faq", 2)
    (['faq'], ['faq-1', 'faq-2'])
    """
    return [recipe_name] if count == 1 else [f"{recipe_name}-{n}" for n in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Rows:
    """A file of rows. `columns`: the format's key -> the column that the recipe names for it."""

    path: Path
    format: str
    columns: Mapping[str, str]


def entries(recipe_name: str, files: list[Rows]) -> Iterator[tuple[str, Any, Path]]:
    """(name, entry, file) of every file."""
    for name, rows in zip(names(recipe_name, len(files)), files, strict=True):
        entry = {"file_name": f"{name}{rows.path.suffix}", **_ENTRIES[rows.format]}
        yield name, {**entry, **_columns(rows)}, rows.path


def _columns(rows: Rows) -> dict[str, Any]:
    """The columns by the names that they have in this file; {} where all are the usual ones."""
    if not rows.columns:
        return {}
    usual = _ENTRIES[rows.format].get("columns") or USUAL_COLUMNS[_formatting(rows.format)]
    return {"columns": {theirs: rows.columns.get(ours, ours) for theirs, ours in usual.items()}}


def _formatting(form: str) -> str:
    return str(_ENTRIES[form].get("formatting", "alpaca"))


def register(folder: Path, new: Mapping[str, Any]) -> None:
    """Add entries to dataset_info.json in `folder`; those of other recipes stay."""
    path = folder / INFO
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_atomic(path, json.dumps({**known, **new}, indent=2, ensure_ascii=False) + "\n")
