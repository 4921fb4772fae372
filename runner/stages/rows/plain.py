"""Files of rows as every script reads them: Parquet, and what Zstandard compressed, made plain.

That takes a library, so it is done by a script in the environment `parquet`, into the stage's
scratch folder. Other files are taken as they are, and recipes without such files never build it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.paths import is_readable_file
from runner.scripts.data.files.packed_files import LIBRARY_SUFFIXES, takes_library
from runner.stages.contract import Context

if TYPE_CHECKING:
    from runner.recipe.model import DataFile, MeasuredFile, Recipe

ENVIRONMENT = "parquet"


@dataclass(frozen=True, slots=True)
class Given:
    """A file and its name in messages. `columns`: those of Parquet to read, None for all, or TEXTS
    for those that hold texts."""

    path: Path
    name: str
    columns: tuple[str, ...] | str | None = None


def borrowed_for(recipe: Recipe, measured: tuple[MeasuredFile, ...]) -> tuple[str, ...]:
    """The environment that a file of the recipe, or one it is `measured` by, takes; or none."""
    files: list[DataFile | MeasuredFile] = [*(file for _, file in recipe.data_files()), *measured]
    here = (recipe.resolve(each.path) for each in files if each.path is not None)
    hub = (each.file for each in files if each.file is not None)
    taken = any(map(_takes_library, here)) or any(
        name.lower().endswith(LIBRARY_SUFFIXES) for name in hub
    )
    return (ENVIRONMENT,) if taken else ()


def plain(given: Mapping[str, Given], context: Context) -> dict[str, Path]:
    """The files by their names, each as it is or made plain. Raises StageFailed naming the row."""
    packed = {name: file for name, file in given.items() if _takes_library(file.path)}
    paths = {name: file.path for name, file in given.items()}
    if not packed:
        return paths
    folder = context.scratch / "plain"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context.run_script(
        "plain_rows",
        {"files": {name: _described(file) for name, file in packed.items()}},
        inputs={name: file.path for name, file in packed.items()},
        folder=folder,
        environment=ENVIRONMENT,
    )
    return paths | {name: folder / f"{name}.jsonl" for name in packed}


def _described(file: Given) -> dict[str, Any]:
    columns = list(file.columns) if isinstance(file.columns, tuple) else file.columns
    return {"name": file.name, "columns": columns}


def _takes_library(path: Path) -> bool:
    if not is_readable_file(path):
        return False
    with path.open("rb") as file:
        return takes_library(file.read(4))
