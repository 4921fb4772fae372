"""Rules about the tasks of `evaluate.harness`: what their files say, and their rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from runner.recipe.checks.task_rows import missing_fields, no_choice, numbered, shown
from runner.recipe.finding import Finding
from runner.recipe.model import Harness, HarnessTask, Recipe
from runner.recipe.task_files import at_key, read_task
from runner.report.printable import escaped
from runner.system.regular import NotReadable, read_regular

MAX_ROW_BYTES = 4 * 1024 * 1024  # of a file that is looked at; larger ones are read by the stage
MAX_SHOWN = 10  # problems of a file
MAX_WORDS = 400  # characters of one


def check_tasks(recipe: Recipe) -> Iterator[Finding]:
    """Everything about every task. Its paths are known to lead to files in the project."""
    harness = recipe.evaluate.harness if recipe.evaluate else None
    if harness is None:
        return
    seen: dict[str, int] = {}
    for number, task in enumerate(harness.tasks):
        if task.path is None:
            continue
        pointer = f"/evaluate/harness/tasks/{number}"
        configuration, problems = read_task(recipe.resolve(task.path))
        for code, words, hint in islice(problems, MAX_SHOWN):
            shown = escaped(f"{task.path}:{words}")[:MAX_WORDS]
            yield Finding(code, f"{pointer}/path", shown, hint)
        bad_rows = list(_rows(recipe, task, pointer))
        yield from bad_rows
        if not configuration:
            continue
        if not bad_rows:
            yield from _unfit_rows(recipe, harness, task, configuration, pointer)
        name = configuration["task"]
        if name in seen:
            message = f"task {name} is also the name of number {seen[name] + 1}"
            yield Finding("E272", f"{pointer}/path", message, "give each task a name of its own")
        seen.setdefault(name, number)
        yield from _examples(harness, task, configuration["num_fewshot"], pointer)


def fewshot_of(harness: Harness, in_file: int) -> int:
    """How many examples stand before each question."""
    return in_file if harness.num_fewshot is None else harness.num_fewshot


def _examples(harness: Harness, task: HarnessTask, in_file: int, pointer: str) -> Iterator[Finding]:
    """Examples come from rows of their own: those that are asked would tell the answers."""
    wanted = fewshot_of(harness, in_file)
    if wanted and task.fewshot is None:
        message = f"{wanted} examples are to stand before each question, and no file has any"
        hint = "add fewshot: a file of rows like those of data, or write num_fewshot: 0"
        yield Finding("E273", f"{pointer}/path", message, hint)


def _rows(recipe: Recipe, task: HarnessTask, pointer: str) -> Iterator[Finding]:
    for key, file in task.hub_files.items():
        if not file.file.lower().endswith((".jsonl", ".parquet")):
            message = f"rows of a task are JSON lines or Parquet, not {escaped(file.file)[:100]}"
            hint = "name a file of the repository that ends with .jsonl or .parquet"
            yield Finding("E282", f"{pointer}/{key}", message, hint)
    for key in ("data", "fewshot"):
        name = None if key in task.hub_files else getattr(task, key)
        if name is None:
            continue
        try:
            content = read_regular(recipe.resolve(name), MAX_ROW_BYTES)
        except NotReadable:
            continue
        for line, words in islice(_bad_rows(content), MAX_SHOWN):
            shown = escaped(f"{name}:{line}: {words}")
            hint = "write one JSON object a line, all with the same keys"
            yield Finding("E274", f"{pointer}/{key}", shown, hint)


def _unfit_rows(
    recipe: Recipe,
    harness: Harness,
    task: HarnessTask,
    configuration: Mapping[str, Any],
    pointer: str,
) -> Iterator[Finding]:
    """Of the rows that are asked, and of those for examples where there are any."""
    examples = fewshot_of(harness, configuration["num_fewshot"])
    for key in ("data", "fewshot") if examples else ("data",):
        name = None if key in task.hub_files else getattr(task, key)
        if name is None:
            continue
        try:
            rows = numbered(read_regular(recipe.resolve(name), MAX_ROW_BYTES))
        except NotReadable:
            continue
        fields = list(rows[0][1])
        yield from islice(
            _missing_fields(recipe, task, configuration, name, fields, pointer), MAX_SHOWN
        )
        asked = rows[: harness.limit] if key == "data" else rows
        if found := no_choice(configuration, asked):
            others = f" (and {found.more} more)" if found.more else ""
            message = (
                f"{name}:{found.line}: the right answer is {found.answer}, which is none of the "
                f"{found.count} choices{others}"
            )
            hint = escaped(
                "doc_to_target gives the number of a choice, from 0, or its text; rows have "
                + shown(fields)
            )
            message = escaped(message)[:MAX_WORDS]
            yield Finding("E286", f"{pointer}/{key}", message, hint[:MAX_WORDS])


def _missing_fields(
    recipe: Recipe,
    task: HarnessTask,
    configuration: Mapping[str, Any],
    name: str,
    fields: list[str],
    pointer: str,
) -> Iterator[Finding]:
    assert task.path is not None
    for each in missing_fields(configuration, fields):
        message = f'{each.part} wants "{each.field}", which the rows of {name} do not have'
        words = at_key(recipe.resolve(task.path), each.part, message)
        near = f"did you mean {each.near}? " if each.near else ""
        hint = escaped(f"{near}they have {shown(fields)}")[:MAX_WORDS]
        yield Finding("E285", f"{pointer}/path", escaped(f"{task.path}:{words}")[:MAX_WORDS], hint)


def _bad_rows(content: bytes) -> Iterator[tuple[int, str]]:
    keys: set[str] | None = None
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not row:
            yield number, "the row is not a JSON object in UTF-8"
        elif keys is not None and row.keys() != keys:
            yield number, "the row has other keys than the first one"
        else:
            keys = set(row)
    if keys is None:
        yield 1, "there is no row in the file"
