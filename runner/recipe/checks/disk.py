"""Rules about files that a recipe names: they exist, they stay in the project, their rows can do.

Reads the disk, bounded in size; writes nothing and follows no path out of the project.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from runner.recipe.base_recipe import PLACES
from runner.recipe.checks.parquet import footer_of
from runner.recipe.finding import Finding
from runner.recipe.model import DataFile, Recipe
from runner.recipe.paths import (
    NamedPath,
    is_readable_file,
    named_paths,
    real_path,
    resolved,
    size_of,
    stat_mode,
)
from runner.recipe.source import Span, at_span
from runner.recipe.suggest import nearest
from runner.report.diagnostic import Diagnostic
from runner.report.printable import quoted
from runner.scripts.data.files.packed_files import is_packed
from runner.scripts.data.files.tables import is_table
from runner.system.regular import NotReadable, is_regular, read_regular

MAX_COUNTED_BYTES = 16 * 1024 * 1024  # of all data files; rows of larger ones are not counted
MAX_JSON_BYTES = 2 * 1024 * 1024  # of one that is a JSON list: parsed it takes thirty times as much
MAX_QUESTION_BYTES = 4 * 1024 * 1024
MAX_BAD_ROWS = 10
MAX_LISTED = 1000  # entries of a folder that are looked at for a suggestion


def check_paths(recipe: Recipe) -> list[Finding]:
    """Findings about every path that the sound sections of `recipe` name."""
    root = recipe.project_root
    inner = (*(f"{place}/" for place in PLACES), "/compare/")
    named = [each for each in named_paths(recipe) if not each.pointer.startswith(inner)]
    return [finding for each in named for finding in _check_path(recipe, each, root)]


def _check_path(recipe: Recipe, named: NamedPath, root: Path) -> Iterator[Finding]:
    named = replace(named, written=_as_written(recipe, named))
    shown = quoted(named.written, 80)
    absolute = named.text.startswith("/")
    if absolute and not named.may_be_absolute:
        hint = "write it relative to the recipe's folder"
        yield Finding("E208", named.pointer, f"{shown} is absolute", hint)
        return
    real = real_path(recipe, named.text)
    if real is None:
        yield Finding(
            "E209", named.pointer, f"{shown} is not a path", "check the name and its links"
        )
        return
    if not absolute and not real.is_relative_to(root):
        message = f"{shown} leads out of the project {quoted(str(root))}"
        yield Finding("E208", named.pointer, message, "move the file below that folder")
        return
    if stat_mode(real) is not None and stat_mode(recipe.resolve(named.text)) is None:
        message = f"{shown} leads through a folder that does not exist"
        yield Finding("E209", named.pointer, message, "leave out what stands before the ..")
        return
    yield from _check_kind(real, named)
    if not absolute and named.kind == "model folder":
        yield from _links_out(real, root, named)


def _links_out(folder: Path, root: Path, named: NamedPath) -> Iterator[Finding]:
    """A model in the project is its own files: a link out of it would take somebody's into runs."""
    try:
        with os.scandir(folder) as entries:
            links = sorted(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return
    for name in links:
        real = resolved(folder / name)
        if real is None or not real.is_relative_to(root):
            shown = quoted(str(Path(named.text, name)), 120)
            message = f"{shown} is a link that leads out of the project {quoted(str(root))}"
            hint = "put the file itself there, or give model.path as an absolute path"
            yield Finding("E208", named.pointer, message, hint)
            return


def _as_written(recipe: Recipe, named: NamedPath) -> str:
    """The path as its file says it, which for one of a base starts elsewhere than `named.text`."""
    source, pointer = recipe.source, named.pointer
    if source.file(pointer) not in source.bases or pointer == "/model/file":
        return named.text
    return str(source.at(pointer))


def _check_kind(real: Path, named: NamedPath) -> Iterator[Finding]:
    shown, mode = quoted(named.written, 80), stat_mode(real)
    if mode is None:
        yield Finding("E209", named.pointer, f"{shown} does not exist", _near_file(real, named))
    elif named.kind == "model folder":
        if not stat.S_ISDIR(mode):
            hint = "name its folder in path and, for a GGUF, the file in file"
            yield Finding("E210", named.pointer, f"{shown} is not a folder", hint)
        elif not is_regular(real / "config.json"):
            message = f"{shown} holds no config.json, so it is not a model folder"
            yield Finding("E210", named.pointer, message, "for a GGUF file, name it in model.file")
    elif stat.S_ISDIR(mode):
        yield Finding(
            "E210", named.pointer, f"{shown} is a folder, not a file", "name a file in it"
        )
    elif not is_readable_file(real):
        yield Finding("E210", named.pointer, f"{shown} is not a readable file", "check its rights")
    elif size_of(real) == 0:
        yield Finding("E210", named.pointer, f"{shown} is empty", "fill it, or name another file")


def _near_file(real: Path, named: NamedPath) -> str:
    """The file beside the missing one that was probably meant."""
    start = "paths start at the recipe's folder"
    if named.written != named.text:
        start = "paths start at the folder of the file that names them"
    try:
        names = sorted(entry.name for entry in islice(real.parent.iterdir(), MAX_LISTED))
    except OSError:
        return start
    meant = nearest(real.name, names)
    if meant is None:
        return start
    return f"did you mean {quoted(str(Path(named.written).with_name(meant)), 120)}?"


# --- held-out rows


def check_held_out_rows(recipe: Recipe) -> Iterator[Finding]:
    """Are there about as many held-out rows as the evaluation wants to show?"""
    if recipe.evaluate is None or not recipe.data.validation.holds_out:
        return
    fraction = recipe.data.validation.fraction
    files = recipe.data.validation.files or recipe.data.train
    counts = counted(recipe, files)
    if None in counts:  # too large to count, or on the hub
        return
    taken = [file.mix.get("limit", MAX_COUNTED_BYTES) for file in files]
    rows = sum(min(count or 0, most) for count, most in zip(counts, taken, strict=True))
    held_out = rows if recipe.data.validation.files else rows * fraction
    if rows > 1 and recipe.data.validation.stable is not True:
        held_out = max(held_out, 1)  # of two prompts or more one is always held out
    wanted = max(_samples_written(recipe), 1 if recipe.evaluate.loss else 0)
    if held_out < wanted:
        about = f"about {held_out:.0f}" if held_out >= 1 else "less than one"
        message = f"{about} of {rows} rows will be held out, and evaluate wants {wanted}"
        yield Finding("W204", "/data/validation", message, "hold out more rows, or lower samples")


def _samples_written(recipe: Recipe) -> int:
    """How many somebody asked for; 0 for the default, of which fewer will do."""
    assert recipe.evaluate is not None
    section = recipe.source.data.get("evaluate")
    written = isinstance(section, dict) and "samples" in section
    return recipe.evaluate.samples if written else 0


def counted(recipe: Recipe, files: Sequence[DataFile]) -> list[int | None]:
    """Rows of each file, all of them together read as far as MAX_COUNTED_BYTES; of Parquet, as it
    says itself."""
    left, counts = MAX_COUNTED_BYTES, list[int | None]()
    for item in files:
        if item.path is None or left < 0:
            counts.append(None)
            continue
        path = recipe.resolve(item.path)
        counts.append(count_rows(path, left))
        left -= 0 if footer_of(path) else size_of(path)
    return counts


def count_rows(path: Path, limit: int = MAX_COUNTED_BYTES) -> int | None:
    """Rows of a JSONL file, of a JSON file with one list, or as the footer of Parquet says.

    None: unreadable, too large, a table or compressed.
    """
    if footer := footer_of(path):
        return footer.rows
    try:
        content = read_regular(path, limit)
    except NotReadable:
        return None
    if is_table(path.name) or is_packed(content):
        return None
    if not content.lstrip().startswith(b"["):
        return sum(1 for line in io.BytesIO(content) if line.strip())
    if len(content) > MAX_JSON_BYTES:
        return None
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return len(rows) if isinstance(rows, list) else None


# --- questions


def check_questions(recipe: Recipe) -> Iterator[Diagnostic]:
    """Every row of `evaluate.questions` can be asked: a mistake there would show after training."""
    name = recipe.evaluate.questions if recipe.evaluate else None
    if name is None:
        return
    try:
        content = read_regular(recipe.resolve(name), MAX_QUESTION_BYTES)
    except NotReadable:
        return
    shown = recipe.source.path.parent / name
    bad = _bad_questions(content)
    for line, message in islice(bad, MAX_BAD_ROWS):
        hint = 'write {"question": "...", "expect": ["..."]}'
        yield at_span(shown, "E213", Span(line, 1, line, 2), message, hint=hint)


def _bad_questions(content: bytes) -> Iterator[tuple[int, str]]:
    rows = 0
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        rows += 1
        message = _bad_question(line)
        if message:
            yield number, message
    if not rows:
        yield 1, "there is no question in the file"


def _bad_question(line: bytes) -> str:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return "the row is not JSON in UTF-8"
    if not isinstance(row, dict):
        return "the row is not a JSON object"
    if not _is_filled_text(row.get("question")):
        return 'the row has no "question" with a text'
    expect = row.get("expect")
    if not isinstance(expect, list) or not expect or not all(map(_is_filled_text, expect)):
        return 'the row has no "expect" with a list of texts'
    return ""


def _is_filled_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
