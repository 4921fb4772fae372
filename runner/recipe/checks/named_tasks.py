"""Rules about tasks of `evaluate.harness` that are given by a name of the harness's own."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding
from runner.recipe.model import HarnessTask, Recipe
from runner.recipe.named_tasks import all_names, catalogue, known_tasks, repository, unfit
from runner.recipe.suggest import nearest
from runner.report.printable import quoted

SHOWN = 3  # close matches


@check("evaluate")
def a_task_is_a_file_or_a_name(recipe: Recipe) -> Iterator[Finding]:
    """One of both, whole: `path` with `data`, or `name`, whose rows are known."""
    for pointer, task in _tasks(recipe):
        if task.name is None:
            if task.path is None or task.data is None:
                lacks = "path" if task.path is None else "data"
                message = f"the task lacks {lacks}: it is a file with its rows, or has a name"
                hint = "write path and data, or name: one of the harness's own tasks"
                yield Finding("E275", pointer, message, hint)
            continue
        for key in ("path", "data", "fewshot", "hub"):
            if getattr(task, key) is not None:
                message = f"{key} is of a task file, and name is of a task that has its rows"
                yield Finding("E275", f"{pointer}/{key}", message, "remove it, or name")


@check("evaluate")
def a_name_is_one_of_the_harness(recipe: Recipe) -> Iterator[Finding]:
    """And what it names can be measured row by row."""
    for pointer, task in _tasks(recipe):
        if task.name is None or known_tasks(task.name):
            continue
        if reason := unfit(task.name):
            hint = "choose another, or write a task file of your own: docs/evaluation.md"
            yield Finding("E277", f"{pointer}/name", f"{reason}: it cannot be measured here", hint)
            continue
        version = catalogue().version
        message = f"lm-evaluation-harness {version} has no task {quoted(task.name, 60)}"
        yield Finding("E276", f"{pointer}/name", message, _meant(task.name))


@check("evaluate")
def a_revision_is_of_one_data_set(recipe: Recipe) -> Iterator[Finding]:
    """A commit means something in one repository alone."""
    for pointer, task in _tasks(recipe):
        if task.name is None or not known_tasks(task.name) or repository(task) is not None:
            continue
        hubs = sorted({known.repository for known in known_tasks(task.name)})
        message = f"the tasks of {task.name} have {len(hubs)} data sets ({', '.join(hubs[:3])}"
        message += ", ...)" if len(hubs) > 3 else ")"
        hint = "name its tasks one by one, so that each data set has its revision"
        yield Finding("E278", f"{pointer}/name", message, hint)


@check("evaluate")
def a_task_is_asked_once(recipe: Recipe) -> Iterator[Finding]:
    """A name twice would be one result for two."""
    seen: dict[str, int] = {}
    for number, (pointer, task) in enumerate(_tasks(recipe), 1):
        for known in known_tasks(task.name) if task.name is not None else ():
            if seen.setdefault(known.name, number) != number:
                message = f"task {known.name} is also in number {seen[known.name]}"
                yield Finding("E279", f"{pointer}/name", message, "name it once")
                break


def _tasks(recipe: Recipe) -> Iterator[tuple[str, HarnessTask]]:
    harness = recipe.evaluate.harness if recipe.evaluate else None
    for number, task in enumerate(harness.tasks if harness else ()):
        yield f"/evaluate/harness/tasks/{number}", task


def _meant(name: str) -> str:
    """The nearest names."""
    left = list(all_names())
    found: list[str] = []
    while len(found) < SHOWN and (close := nearest(name, left)):
        found.append(close)
        left.remove(close)
    if not found:
        return "its names are those of `lm_eval ls tasks`; a task of your own is a file"
    return f"did you mean {' or '.join(found)}?"
