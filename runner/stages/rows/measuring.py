"""The files whose texts no row to train on may hold: what `data.clean.decontaminate` looks for.

The questions of the evaluation, what its harness tasks ask, and the files that are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.recipe.named_tasks import members
from runner.scripts.data.files.packed_files import TEXTS
from runner.stages import fetch_data, fetch_tasks
from runner.stages.rows.plain import Given

if TYPE_CHECKING:
    from runner.recipe.model import HarnessTask, MeasuredFile, Recipe
    from runner.recipe.named_tasks import Rows
    from runner.stages.contract import Upstream


def measured_by(recipe: Recipe) -> tuple[MeasuredFile, ...]:
    """Every file that the recipe names, in order: questions, tasks' rows, and those of the step.

    The splits of tasks that have a name are none of them: they may be of many files.
    """
    from runner.recipe.model import MeasuredFile

    found = [*recipe.data.measured_files]
    if not _evaluation_counts(recipe):
        return tuple(found)
    asked = recipe.evaluate.questions if recipe.evaluate else None
    questions = [MeasuredFile(asked, None, None, None)] if asked else []
    return (*questions, *(_rows_of(task) for _, task in _tasks(recipe)), *found)


def asked_splits(recipe: Recipe) -> list[Rows]:
    """What the tasks that have a name ask, each split once."""
    if not _evaluation_counts(recipe):
        return []
    found = (each.rows[each.known.asked] for each in members(recipe))
    return list(dict.fromkeys(found))


def needs_tasks(recipe: Recipe) -> bool:
    """Are rows of a task on the hub, which `fetch_tasks` gets?"""
    return bool(asked_splits(recipe)) or any(task.hub for _, task in _tasks(recipe))


def given(recipe: Recipe, inputs: Upstream) -> list[Given]:
    """The files to look for, those first that an evaluation asks: `asked_by_evaluation` of them."""
    return [*_of_evaluation(recipe, inputs), *_named(recipe, inputs)]


def asked_by_evaluation(recipe: Recipe, inputs: Upstream) -> int:
    """How many of `given` are rows of tasks, which may be too short to be looked for."""
    return len(list(_of_tasks(recipe, inputs)))


def task_digests(recipe: Recipe, upstream: Upstream) -> list[str]:
    """Of the rows on the hub that are looked for, in order; for a key."""
    fetched = upstream[fetch_tasks.NAME]
    names = [
        *(_output_name(number, task) for number, task in _tasks(recipe) if task.hub),
        *(f"{name}-*" for name in _places(recipe)),
    ]
    return [fetched.digest(name) for name in names]


def _evaluation_counts(recipe: Recipe) -> bool:
    measured = recipe.data.clean.decontaminate if recipe.data.clean else None
    return measured is not None and measured.questions


def _tasks(recipe: Recipe) -> list[tuple[int, HarnessTask]]:
    """The tasks whose files the recipe names, with their numbers among all tasks."""
    harness = recipe.evaluate.harness if recipe.evaluate else None
    if harness is None or not _evaluation_counts(recipe):
        return []
    return [(number, task) for number, task in enumerate(harness.tasks) if task.data is not None]


def _rows_of(task: HarnessTask) -> MeasuredFile:
    from runner.recipe.model import MeasuredFile

    if task.hub is None:
        return MeasuredFile(task.data, None, None, None)
    return MeasuredFile(None, task.hub, task.revision, task.data)


def _output_name(number: int, task: HarnessTask) -> str:
    return fetch_tasks.output_name("data", number, task.hub_files["data"])


def _places(recipe: Recipe) -> list[str]:
    """Where `fetch_tasks` puts the splits: the beginning of their files' names."""
    wanted = asked_splits(recipe)
    return [name for name, rows in fetch_tasks.splits_of(recipe).items() if rows in wanted]


def _of_evaluation(recipe: Recipe, inputs: Upstream) -> Iterator[Given]:
    yield from _of_tasks(recipe, inputs)
    asked = recipe.evaluate.questions if recipe.evaluate else None
    if asked and _evaluation_counts(recipe):
        yield Given(recipe.resolve(asked), asked, TEXTS)


def _of_tasks(recipe: Recipe, inputs: Upstream) -> Iterator[Given]:
    for number, task in _tasks(recipe):
        file = _rows_of(task)
        if file.path is None:
            path = inputs[fetch_tasks.NAME].path(_output_name(number, task))
        else:
            path = recipe.resolve(file.path)
        yield Given(path, file.name, TEXTS)
    splits = fetch_tasks.splits_of(recipe)
    for place in _places(recipe):
        fetched = inputs[fetch_tasks.NAME]
        for name in fetch_tasks.files_below(fetched.files, place):
            yield Given(fetched.path(name), splits[place].name, TEXTS)


def _named(recipe: Recipe, inputs: Upstream) -> Iterator[Given]:
    for number, file in enumerate(recipe.data.measured_files):
        if file.path is None:
            place = fetch_data.output_name("measured", number, file)
            yield Given(inputs[fetch_data.NAME].folder / place, file.name, TEXTS)
        else:
            yield Given(recipe.resolve(file.path), file.name, TEXTS)
