"""Get the data files that lie in data set repositories of the hub, as they are.

A stage of its own, so that other data do not fetch the model again, nor other settings of `prepare`
the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Class, Context, Upstream
from runner.stages.models import hub

if TYPE_CHECKING:
    from runner.recipe.model import DataFile, MeasuredFile, Recipe

NAME = "fetch_data"
VERSION = 1
OUTPUTS = {"data/*": Class.PORTABLE}
NEEDS: tuple[str, ...] = ()
ENVIRONMENT = "data"
TOOLS: tuple[str, ...] = ()
DEVICE = False


def wanted(recipe: Recipe) -> bool:
    """Only when a file is on the hub."""
    return any(True for _ in named_files(recipe))


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digests of the files, where the recipe came in a bundle that holds them; else empty."""
    given = recipe.given
    return given.key_facts(NAME) if given is not None and given.holds(NAME) else {}


def unresolved(recipe: Recipe) -> str:
    """Why the key cannot be known yet; "" when it can."""
    return next(filter(None, (hub.unpinned(file) for _, file in named_files(recipe))), "")


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Repository, commit and path of every file, under the name it gets."""
    return {name: hub.pin(file) for name, file in named_files(recipe)}


def resumable(scratch: Path) -> bool:
    """Can a download go on?"""
    return hub.has_downloads(scratch)


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `data/` below `folder`. Raises StageFailed or MachineCannot."""
    if recipe.given is not None and recipe.given.holds(NAME):
        recipe.given.unpack(NAME, folder)
        return
    hub.download_files(dict(named_files(recipe)), folder, context)


def output_name(kind: str, number: int, file: DataFile | MeasuredFile) -> str:
    """Where the stage puts the file `number` of data.train, data.validation or those that rows must
    not hold (`kind`: train, validation, measured)."""
    return f"data/{kind}-{number}{PurePosixPath(file.file or '').suffix}"


def named_files(recipe: Recipe) -> Iterator[tuple[str, DataFile | MeasuredFile]]:
    """The files of the hub under the names they get, in the recipe's order."""
    groups: dict[str, tuple[DataFile | MeasuredFile, ...]] = {
        "train": recipe.data.train,
        "validation": recipe.data.validation.files,
        "measured": recipe.data.measured_files,
    }
    for kind, files in groups.items():
        for number, file in enumerate(files):
            if file.hub is not None:
                yield output_name(kind, number, file), file
