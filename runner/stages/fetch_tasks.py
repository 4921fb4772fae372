"""Get the rows of `evaluate.harness`'s tasks that lie in data set repositories of the hub.

A stage of its own: what the model is asked afterwards must not make what it learns from be fetched
again. The files stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.recipe.named_tasks import rows_of
from runner.stages.contract import Class, Context, Upstream
from runner.stages.models import hub

if TYPE_CHECKING:
    from runner.recipe.model import HubFile, Recipe
    from runner.recipe.named_tasks import Rows

NAME = "fetch_tasks"
VERSION = 1
OUTPUTS = {"tasks/*": Class.PORTABLE}
NEEDS: tuple[str, ...] = ()
ENVIRONMENT = "data"
TOOLS: tuple[str, ...] = ()
DEVICE = False


def wanted(recipe: Recipe) -> bool:
    """Only when rows of a task are on the hub."""
    return bool(files_of(recipe) or splits_of(recipe))


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digests of the files, where the recipe came in a bundle that holds them; else empty."""
    given = recipe.given
    return given.key_facts(NAME) if given is not None and given.holds(NAME) else {}


def unresolved(recipe: Recipe) -> str:
    """Why the key cannot be known yet; "" when it can."""
    files = map(hub.unpinned, files_of(recipe).values())
    splits = map(hub.unpinned, splits_of(recipe).values())
    return next(filter(None, (*files, *splits)), "")


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Repository, commit and path, or configuration and split, under the name it gets."""
    files = {name: hub.pin(file) for name, file in files_of(recipe).items()}
    return {**files, **{name: asdict(rows) for name, rows in splits_of(recipe).items()}}


def resumable(scratch: Path) -> bool:
    """Can a download go on?"""
    return hub.has_downloads(scratch)


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `tasks/` below `folder`. Raises StageFailed or MachineCannot."""
    if recipe.given is not None and recipe.given.holds(NAME):
        recipe.given.unpack(NAME, folder)
        return
    if files := files_of(recipe):
        hub.download_files(files, folder, context)
    if splits := splits_of(recipe):
        hub.download_rows(splits, folder, context)


def output_name(key: str, number: int, file: HubFile) -> str:
    """Where the stage puts the rows of the task `number`: its `data` or its `fewshot`."""
    return f"tasks/{key}-{number}{PurePosixPath(file.file).suffix}"


def files_of(recipe: Recipe) -> dict[str, HubFile]:
    """The files of the hub under the names they get, in the recipe's order."""
    return {output_name(key, number, file): file for _, number, key, file in recipe.task_files()}


def splits_of(recipe: Recipe) -> dict[str, Rows]:
    """The splits that named tasks read, each once, under the beginning of their files' names."""
    return {f"tasks/rows-{number}": rows for number, rows in enumerate(rows_of(recipe))}


def files_below(outputs: Iterable[str], name: str) -> list[str]:
    """The output files of a split, in order."""
    return sorted(path for path in outputs if path.startswith(f"{name}-"))
