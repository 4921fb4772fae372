"""Rules about the first rows of the data: they have the format that is given, the template can
show them, a step does not take more than all.

Reads files of the project, a bounded part of each; rows on the hub are not looked at. The stage
`prepare` checks every row, when the model is here already: what the first rows say, they say now.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runner.recipe.checks.disk import MAX_JSON_BYTES, counted
from runner.recipe.finding import Finding, listed
from runner.recipe.model import DataFile, Recipe
from runner.recipe.model_facts import Facts
from runner.recipe.paths import is_readable_file
from runner.report.printable import escaped, quoted
from runner.scripts.data.files.packed_files import unpacked
from runner.scripts.data.files.rows import Problem, RowError, as_format_reads
from runner.scripts.data.files.tables import is_table, rows_of_table
from runner.scripts.data.formats import EVERY, FIELDS
from runner.scripts.data.guess import guess_format
from runner.system.regular import NotReadable, open_regular, read_regular

FIRST = 5  # rows that are looked at
MAX_FILES = 50  # files of one recipe whose rows are
MAX_KEYS = 10  # of a row that are named
MAX_REPEATS = 20  # of a row in one pass, before it is called often
MAX_PASSES = 1000  # over the data, before they are called a slip of the pen
MAX_HEAD = 1 << 20  # bytes of a JSONL file that they are looked for in

Row = tuple[int, dict[str, Any]]


def first_rows(path: Path) -> list[Row]:
    """The first objects of a file of rows, with their lines; fewer where the file is broken."""
    try:
        with open_regular(path) as file, unpacked(file) as plain:
            head = plain.read(MAX_HEAD).removeprefix(b"\xef\xbb\xbf")
    except (NotReadable, RowError, OSError):
        return []
    if is_table(path.name):
        cells = islice(rows_of_table(io.BytesIO(head), path.name), FIRST)
        return [(each[0].line, each[1]) for each in cells if not isinstance(each, Problem)]
    if head.lstrip().startswith(b"["):
        return _rows_of_list(path)
    lines = enumerate(io.BytesIO(head), 1)  # one that the end of the head cuts off is no object
    found = ((number, _object(line)) for number, line in lines if line.strip())
    return list(islice(((number, row) for number, row in found if row is not None), FIRST))


def _rows_of_list(path: Path) -> list[Row]:
    """Of a JSON list; lines are not known, so the first is named."""
    try:
        with open_regular(path) as file, unpacked(file) as plain:
            rows = json.loads(plain.read(MAX_JSON_BYTES))
    except (ValueError, RecursionError, RowError, OSError):
        return []
    rows = rows[:FIRST] if isinstance(rows, list) else []
    return [(1, row) for row in rows if isinstance(row, dict)]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- the format


def check_formats(recipe: Recipe) -> Iterator[Finding]:
    """The first rows of a file are of another format than the given one.

    Rows that are of no format are told by `prepare`, each with what is wrong in it.
    """
    for pointer, item in islice(recipe.data_files(), MAX_FILES):
        yield from _unknown_columns(pointer, item)
        rows = [] if item.path is None else first_rows(recipe.resolve(item.path))
        problems = [problem for _, row in rows if (problem := _misfit(row, item))]
        if not rows or len(problems) < len(rows):
            continue
        if (absent := _absent_column([row for _, row in rows], item)) is not None:
            keys = ", ".join(quoted(key, 40) for key in islice(rows[0][1], MAX_KEYS))
            message = f"{item.name}:{rows[0][0]}: {problems[0]}"
            where = f"{pointer}/columns/{absent}"
            yield Finding("E241", where, message, f"the first row has {keys}")
            continue
        guess = guess_format([row for _, row in rows])
        if guess and (guess.format, dict(guess.columns)) != (item.format, item.columns or {}):
            place = f"{item.name}:{rows[0][0]}"
            message = f"{place} is no row of format {item.format}: {problems[0]}"
            hint = f"it {guess}: write {guess.to_write}"
            yield Finding("E241", f"{pointer}/format", message, escaped(hint))


def _absent_column(rows: list[dict[str, Any]], item: DataFile) -> str | None:
    """The first key of `columns` whose name none of the rows has; None where there is none."""
    named = (item.columns or {}).items()
    return next((key for key, name in named if not any(name in row for row in rows)), None)


def _unknown_columns(pointer: str, item: DataFile) -> Iterator[Finding]:
    """Names for keys that the format does not read."""
    for key in item.columns or {}:
        if key not in FIELDS[item.format]:
            message = f"format {item.format} reads no {key}"
            hint = f"name a column for {listed(list(FIELDS[item.format]))}"
            yield Finding("E352", f"{pointer}/columns/{key}", message, hint)


def _misfit(row: dict[str, Any], item: DataFile) -> str:
    """Why the row is none of the file's format; "" when it is one."""
    try:
        EVERY[item.format](as_format_reads(row, item.name, item.columns))
    except RowError as error:
        return error.message
    return ""


def check_split_columns(recipe: Recipe) -> Iterator[Finding]:
    """The first rows of a file lack a column that rows are grouped or stratified by."""
    held_out = recipe.data.validation
    for setting in ("group_by", "stratify"):
        column = getattr(held_out, setting)
        if column is None:
            continue
        for item in recipe.data.train[:MAX_FILES]:
            rows = [] if item.path is None else first_rows(recipe.resolve(item.path))
            lines = [line for line, row in rows if row.get(column) is None]
            if lines:
                message = f"{item.name}:{lines[0]} has no {quoted(column)}"
                hint = "name a column that the rows of every file have"
                yield Finding("E255", f"/data/validation/{setting}", message, hint)
                break


# --- the template


_SYSTEM = re.compile(r"\bsystem\b", re.IGNORECASE)
_REFUSAL = re.compile(r"\bnot\b|\bno\b|n't\b|\bunsupported\b", re.IGNORECASE)
_ROLE = re.compile(r"\brole\b")
_MESSAGE = 200  # characters of an error's text that are looked at


def refuses_system(template: str) -> bool:
    """Does the template end with an error that says so? One pass, whatever a stranger wrote."""
    errors = (part[:_MESSAGE].split(")")[0] for part in template.split("raise_exception(")[1:])
    return any(_SYSTEM.search(error) and _REFUSAL.search(error) for error in errors)


def knows_system(template: str) -> bool:
    """Does it name system turns, or write whatever role a turn has?"""
    written = (part.split("}}")[0] for part in template.split("{{")[1:])
    return "system" in template or any(_ROLE.search(part) for part in written)


def check_template_is_text(recipe: Recipe) -> Iterator[Finding]:
    """A template file of the recipe's own that is not UTF-8 is no text."""
    from runner.stages.templates import shipped_templates

    given = recipe.data.chat_template
    if not shipped_templates.is_path(given):
        return
    try:
        read_regular(recipe.resolve(given), MAX_HEAD).decode("utf-8")
    except NotReadable:
        return
    except UnicodeDecodeError as error:
        message = f"{quoted(given, 80)} is not UTF-8: byte {error.start + 1} begins no character"
        yield Finding("E326", "/data/chat_template", message, "save the template as UTF-8")


def check_roles(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """A role that no template is given, or a system turn that the template refuses or loses.

    The template is read, never run. That of a model which is not at hand is not looked at.
    """
    yield from _unknown_roles(recipe)
    pointer = _first_system_turn(recipe)
    template = _template(recipe, facts)
    if pointer is None or template is None:
        return
    name = recipe.data.chat_template
    what = "the model's own chat template" if name == "model" else f"the chat template {name}"
    hint = "write data.chat_template: chatml, or another of docs/templates.md; or have no such turn"
    if refuses_system(template):
        yield Finding("E242", pointer, f"{what} refuses system turns", hint)
    elif not knows_system(template):
        yield Finding("E242", pointer, f"{what} does not know system turns", hint)


def _unknown_roles(recipe: Recipe) -> Iterator[Finding]:
    """A turn of a critic, say: whatever the template, `prepare` refuses it."""
    for pointer, item in islice(recipe.data_files(), MAX_FILES):
        rows = [] if item.path is None else first_rows(recipe.resolve(item.path))
        for line, row in rows:
            if "unknown role" in (problem := _misfit(row, item)):
                message = f"{item.name}:{line}: {problem}"
                hint = "leave such turns out: no chat template is given them"
                yield Finding("E242", f"{pointer}/path", message, hint)
                break


def _first_system_turn(recipe: Recipe) -> str | None:
    """Where a system turn comes from: `data.system`, or the first rows of a file."""
    first = islice(recipe.data_files(), MAX_FILES)
    files = [(pointer, item) for pointer, item in first if item.format != "text"]
    if recipe.data.system and files:
        return "/data/system"
    return next((f"{pointer}/path" for pointer, item in files if _has_system(recipe, item)), None)


def _has_system(recipe: Recipe, item: DataFile) -> bool:
    rows = [] if item.path is None else first_rows(recipe.resolve(item.path))
    return any("system" in _roles(row, item) for _, row in rows)


def _roles(row: dict[str, Any], item: DataFile) -> set[str]:
    try:
        read = EVERY[item.format](as_format_reads(row, item.name, item.columns))
        return {message["role"] for message in read.messages}
    except RowError:
        return set()


def _template(recipe: Recipe, facts: Facts | None) -> str | None:
    from runner.stages.templates import shipped_templates

    given = recipe.data.chat_template
    if given == "model":
        return facts.chat_template if facts else None
    if shipped_templates.is_path(given):
        path = recipe.resolve(given)
    elif given in shipped_templates.names():
        path = shipped_templates.path_of(given)
    else:
        return None
    if not is_readable_file(path):
        return None
    with path.open("rb") as file:
        return file.read(MAX_HEAD).decode("utf-8", errors="replace")


# --- how many


def check_batch(recipe: Recipe) -> Iterator[Finding]:
    """A step that takes more rows than there are is a smaller one than it says. How many packs rows
    make is known later: there a forward pass that takes more packs than there are rows is told."""
    train, packing = recipe.train, recipe.data.packing
    batch = train.per_device_train_batch_size if packing else train.rows_per_step
    rows = _training_rows(recipe)
    if rows is None or batch <= rows:
        return
    longer = not packing and train.gradient_accumulation_steps >= train.per_device_train_batch_size
    key = "gradient_accumulation_steps" if longer else "per_device_train_batch_size"
    taken = (
        f"a forward pass takes {batch} packs of rows" if packing else f"a step takes {batch} rows"
    )
    message = f"{taken}, and about {rows} rows are trained on"
    hint = "lower it, or give more rows"
    yield Finding("W216", f"/train/{key}", message, hint)


def check_passes(recipe: Recipe) -> Iterator[Finding]:
    """More passes over the data than any training makes are a slip of the pen."""
    passes = recipe.train.num_train_epochs
    if recipe.train.max_steps is None and passes is not None and passes > MAX_PASSES:
        message = f"each row is trained on {passes:,.0f} times: usual are 1 to 10"
        hint = "write fewer, or the number of steps that you mean: max_steps"
        yield Finding("W261", "/train/num_train_epochs", message, hint)


def check_repeats(recipe: Recipe) -> Iterator[Finding]:
    """A weight by which the rows of a small file are learnt by heart."""
    from runner.scripts.data.dividing.mixing import times_of

    files = recipe.data.train
    counts = counted(recipe, files)
    taken = [
        min(count or 0, file.limit or count or 0) for count, file in zip(counts, files, strict=True)
    ]
    if any(file.weight is None for file in files) or not all(taken):
        return
    for number, times in enumerate(times_of(taken, [file.mix for file in files])):
        if times > MAX_REPEATS:
            name = quoted(files[number].name)
            message = f"by its weight each row of {name} is trained on {float(times):.0f} times"
            message += " in one pass"
            hint = "give it less weight, or the larger files a limit"
            yield Finding("W258", f"/data/train/{number}/weight", message, hint)


def _training_rows(recipe: Recipe) -> int | None:
    from runner.scripts.data.dividing.mixing import rows_about

    counts = counted(recipe, recipe.data.train)
    if None in counts:
        return None
    sources = [file.mix for file in recipe.data.train]
    known = [count or 0 for count in counts]
    return math.ceil(rows_about(known, sources, recipe.data.validation.fraction))
