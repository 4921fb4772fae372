"""The `data` section: files of rows that a recipe can name, and what of data sets it cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runner.capture.captured import Fate
from runner.capture.data_sets import Inexpressible
from runner.capture.hub_cache import HUB_ID
from runner.errors import UsageError
from runner.imports.sheet import Sheet
from runner.imports.wanted import Wanted
from runner.recipe.paths import is_readable_file, resolved

ROWS = (".json", ".jsonl")
NEEDS_A_FILE = (
    "a recipe names a JSON or JSONL file of it: download the rows and name them with --data"
)


def local_rows(text: str, form: str | None, wanted: Wanted, compared: str = "") -> dict[str, Any]:
    """An item of data.train for a file of the workspace; its format is looked up if not told.

    With `compared`, its rows must be of that form, of answers that are compared. Raises
    Inexpressible, also for a file outside of the project: it is not read.
    """
    path = wanted.place.workspace / text
    real = resolved(path)
    if real is None or not real.is_relative_to(wanted.root):
        raise Inexpressible(f"it leads out of the project {wanted.root}")
    if path.suffix not in ROWS:
        raise Inexpressible("a recipe reads rows from JSON and JSONL files")
    written = os.path.relpath(path, wanted.place.recipe)
    found = form or _format_of(path, compared)
    if compared and found != compared:
        raise Inexpressible(f"its rows are {found}, and the method learns from {compared}")
    return {"path": written, "format": found}


def hub_rows(repository: str, file: str, form: str | None, revision: str | None) -> dict[str, Any]:
    """An item of data.train for a file of a data set of the hub. Raises Inexpressible."""
    if HUB_ID.fullmatch(repository) is None:
        raise Inexpressible("it is neither a file here nor a repository of the hub")
    if Path(file).suffix not in ROWS:
        raise Inexpressible(NEEDS_A_FILE)
    if form is None:
        raise Inexpressible(f"what its rows look like is not known here; {NEEDS_A_FILE}")
    return {
        "hub": repository,
        **({"revision": revision} if revision else {}),
        "file": file,
        "format": form,
    }


def _format_of(path: Path, compared: str) -> str:
    from runner.recipe.creation.inputs import format_of_file

    if not is_readable_file(path):
        raise Inexpressible("there is no such file here")
    try:
        return format_of_file(path, [compared] if compared else [])
    except UsageError as error:
        raise Inexpressible(error.message) from None


def rows_given(sheet: Sheet, wanted: Wanted, settings: list[str]) -> bool:
    """Are there rows of --data? Then they stand for what the `settings` name."""
    rows = wanted.place.rows
    if not rows:
        return False
    sheet.put("data.train", [dict(item) for item in rows], "--data", "given with --data")
    for name in settings:
        if name in sheet.given:
            sheet.note(Fate.CLOSE, name, becomes="data.train", why="the rows are those of --data")
    return True


def require_rows(sheet: Sheet, files: list[dict[str, Any]], why: list[str]) -> None:
    """Write data.train. Raises UsageError (E856) when there is nothing to write."""
    if not files:
        reasons = "; ".join(dict.fromkeys(why)) or "the file names none"
        raise UsageError(
            f"none of its data can be named in a recipe: {reasons}",
            hint="name the rows yourself, in a file of the project: --data rows.jsonl",
            code="E856",
        )
    sheet.put("data.train", files, "data")


def add_validation(sheet: Sheet, name: str, default: float, why: str) -> None:
    """Rows held out by a part of them; a number of rows becomes no part."""
    size = sheet.value(name, default)
    part = size if isinstance(size, int | float) and not isinstance(size, bool) else -1
    if not 0 <= part < 1:
        sheet.put("data.validation", {"fraction": 0.1}, name)
        sheet.lost(
            name, "a recipe holds out a part, not a number of rows", "data.validation.fraction: 0.1"
        )
        return
    sheet.put("data.validation", {"fraction": float(part)}, name)
    becomes = f"data.validation.fraction: {float(part)}"
    if not sheet.has(name):
        sheet.note(
            Fate.DEFAULT, name, becomes=becomes, why=f"{sheet.tool}'s own where the file is silent",
            value=default,
        )  # fmt: skip
    elif part:
        sheet.close(name, why, becomes)
    else:
        sheet.mapped(name, becomes)
