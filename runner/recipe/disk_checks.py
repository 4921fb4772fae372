"""Rules about files that a recipe names: they exist, they stay in the project, their rows can do.

Reads the disk, bounded in size; writes nothing and follows no path out of the project.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runner.recipe.finding import Finding
from runner.recipe.model import Recipe
from runner.recipe.paths import NamedPath, is_readable_file, named_paths, real_path, stat_mode
from runner.recipe.source import Span, at_span
from runner.recipe.suggest import nearest
from runner.report.diagnostic import Diagnostic
from runner.report.printable import quoted

MAX_COUNTED_BYTES = 16 * 1024 * 1024  # of one data file; rows of larger ones are not counted
MAX_QUESTION_BYTES = 4 * 1024 * 1024
MAX_BAD_ROWS = 10
MAX_LISTED = 1000  # entries of a folder that are looked at for a suggestion


def check_paths(recipe: Recipe) -> list[Finding]:
    """Findings about every path that the sound sections of `recipe` name."""
    return [finding for named in named_paths(recipe) for finding in _check_path(recipe, named)]


def _check_path(recipe: Recipe, named: NamedPath) -> Iterator[Finding]:
    shown = quoted(named.text, 80)
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
    root = recipe.project_root
    if not absolute and not real.is_relative_to(root):
        message = f"{shown} leads out of the project {quoted(str(root))}"
        yield Finding("E208", named.pointer, message, "move the file below that folder")
        return
    yield from _check_kind(real, named)


def _check_kind(real: Path, named: NamedPath) -> Iterator[Finding]:
    shown, mode = quoted(named.text, 80), stat_mode(real)
    if mode is None:
        yield Finding("E209", named.pointer, f"{shown} does not exist", _near_file(real, named))
    elif named.kind == "model folder":
        if not stat.S_ISDIR(mode):
            hint = "name its folder in path and, for a GGUF, the file in file"
            yield Finding("E210", named.pointer, f"{shown} is not a folder", hint)
        elif not (real / "config.json").is_file():
            message = f"{shown} holds no config.json, so it is not a model folder"
            yield Finding("E210", named.pointer, message, "for a GGUF file, name it in model.file")
    elif stat.S_ISDIR(mode):
        yield Finding(
            "E210", named.pointer, f"{shown} is a folder, not a file", "name a file in it"
        )
    elif not is_readable_file(real):
        yield Finding("E210", named.pointer, f"{shown} is not a readable file", "check its rights")
    elif real.stat().st_size == 0:
        yield Finding("E210", named.pointer, f"{shown} is empty", "fill it, or name another file")


def _near_file(real: Path, named: NamedPath) -> str:
    """The file beside the missing one that was probably meant."""
    try:
        names = sorted(entry.name for entry in islice(real.parent.iterdir(), MAX_LISTED))
    except OSError:
        return "paths start at the recipe's folder"
    meant = nearest(real.name, names)
    if meant is None:
        return "paths start at the recipe's folder"
    return f"did you mean {quoted(str(Path(named.text).with_name(meant)), 120)}?"


# --- held-out rows


def check_held_out_rows(recipe: Recipe) -> Iterator[Finding]:
    """Are there about as many held-out rows as the evaluation wants to show?"""
    if recipe.evaluate is None or not recipe.data.validation.holds_out:
        return
    fraction = recipe.data.validation.fraction
    files = recipe.data.validation.files or recipe.data.train
    counts = [
        None if item.path is None else count_rows(recipe.resolve(item.path)) for item in files
    ]
    if None in counts:  # too large to count, or on the hub
        return
    rows = sum(count for count in counts if count is not None)
    held_out = rows if recipe.data.validation.files else rows * fraction
    wanted = max(recipe.evaluate.samples, 1 if recipe.evaluate.loss else 0)
    if held_out < wanted:
        about = f"about {held_out:.0f}" if held_out >= 1 else "less than one"
        message = f"{about} of {rows} rows will be held out, and evaluate wants {wanted}"
        yield Finding("W204", "/data/validation", message, "hold out more rows, or lower samples")


def count_rows(path: Path) -> int | None:
    """Rows of a JSONL file, or of a JSON file with one list; None: unreadable or too large."""
    if not is_readable_file(path) or path.stat().st_size > MAX_COUNTED_BYTES:
        return None
    content = path.read_bytes()
    if not content.lstrip().startswith(b"["):
        return sum(1 for line in content.splitlines() if line.strip())
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
    path = recipe.resolve(name)
    if not is_readable_file(path) or path.stat().st_size > MAX_QUESTION_BYTES:
        return
    shown = recipe.source.path.parent / name
    bad = _bad_questions(path.read_bytes())
    for line, message in islice(bad, MAX_BAD_ROWS):
        hint = 'write {"question": "...", "expect": ["..."]}'
        yield at_span(shown, "E213", Span(line, 1, line, 2), message, hint=hint)


def _bad_questions(content: bytes) -> Iterator[tuple[int, str]]:
    rows = 0
    for number, line in enumerate(content.split(b"\n"), 1):
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
