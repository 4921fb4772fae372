"""Do the rows of a task file fit it, as far as that can be seen without rendering a template?

Only what is certain is an error: a field that every row lacks and a template cannot do without, and
a right answer that is written down and is none of the choices. The stage `harness` renders every
template before it loads a model, and finds the rest (scripts/evaluation/fitting.py).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.recipe.suggest import nearest

MAX_SHOWN = 100  # characters of a value
MAX_FIELDS = 20
MAX_DIGITS = 9  # of the number of a choice
_PARTS = ("doc_to_text", "doc_to_choice", "doc_to_target")
# What keeps a part of a template from being rendered for every row, or lets it do without a field.
_STATEMENT = re.compile(r"\{[%#]")
_LOGIC = re.compile(r"\b(?:if|else|or|and|is|default|d)\b")
_EXPRESSION = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)\s*([.\[|][^{}]*)?-?\}\}")
_WHOLE = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)\s*-?\}\}")
_OF_JINJA = frozenset(
    ("range", "dict", "lipsum", "cycler", "joiner", "namespace", "true", "false", "none")
) | frozenset(("True", "False", "None"))
_UNKNOWN = object()


@dataclass(frozen=True, slots=True)
class MissingField:
    """A `part` of a task names a `field`, which no row has; `near` is one that they have."""

    part: str
    field: str
    near: str | None


@dataclass(frozen=True, slots=True)
class NoChoice:
    """The right answer of the row at `line` is none of `count` choices, as in `more` others."""

    line: int
    answer: str
    count: int
    more: int = 0


def numbered(content: bytes) -> list[tuple[int, dict[str, Any]]]:
    """Line and row of JSON lines that are known to be objects."""
    lines = enumerate(io.BytesIO(content), 1)
    return [(number, json.loads(line.decode("utf-8"))) for number, line in lines if line.strip()]


def missing_fields(task: Mapping[str, Any], fields: Sequence[str]) -> Iterator[MissingField]:
    """What templates are sure to want and rows do not have, each part's in order."""
    for part in _PARTS:
        given = task.get(part)
        if not isinstance(given, str) or given in fields:
            continue
        wanted = dict.fromkeys(_wanted(given))
        if part == "doc_to_choice" and given.isidentifier():
            wanted = {given: None}  # no list of choices could be written so
        for name in wanted:
            if name not in fields:
                yield MissingField(part, name, nearest(name, fields))


def _wanted(template: str) -> Iterator[str]:
    if _STATEMENT.search(template):
        return
    for found in _EXPRESSION.finditer(template):
        if found[1] not in _OF_JINJA and not _LOGIC.search(found[2] or ""):
            yield found[1]


def no_choice(
    task: Mapping[str, Any], rows: Sequence[tuple[int, Mapping[str, Any]]]
) -> NoChoice | None:
    """The first row whose right answer is none of its choices; None where none is sure to."""
    if task.get("output_type") != "multiple_choice":
        return None
    bad = []
    for line, row in rows:
        choices, right = _choices(task["doc_to_choice"], row), _right(task["doc_to_target"], row)
        if choices is not _UNKNOWN and right is not _UNKNOWN and not _fits(right, choices):
            bad.append(NoChoice(line, str(right)[:MAX_SHOWN], len(choices)))
    if not bad:
        return None
    return NoChoice(bad[0].line, bad[0].answer, bad[0].count, len(bad) - 1)


def _choices(given: Any, row: Mapping[str, Any]) -> Any:
    found = row.get(given) if isinstance(given, str) else given
    return found if isinstance(found, list) else _UNKNOWN


def _right(given: Any, row: Mapping[str, Any]) -> Any:
    """Number, text or list; as the harness reads a text: digits that a template gives are one."""
    if isinstance(given, str) and given in row:
        found = row[given]
    elif isinstance(given, str):
        found = _rendered(given, row)
    else:
        found = given
    several = found if isinstance(found, list) else [found]
    return found if all(isinstance(each, int | str) for each in several) else _UNKNOWN


def _rendered(template: str, row: Mapping[str, Any]) -> Any:
    """Of the simplest templates alone."""
    whole = _WHOLE.fullmatch(template)
    if whole and isinstance(row.get(whole[1]), str | int):
        text = str(row[whole[1]])
    elif "{" in template:
        return _UNKNOWN
    else:
        text = template
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= MAX_DIGITS else text


def _fits(right: Any, choices: Sequence[Any]) -> bool:
    several = right if isinstance(right, list) else [right]
    return any(
        0 <= each < len(choices) if isinstance(each, int) else each in choices for each in several
    )


def shown(fields: Sequence[str]) -> str:
    """The fields of rows, for a hint."""
    return ", ".join(fields[:MAX_FIELDS]) + (", …" if len(fields) > MAX_FIELDS else "")
