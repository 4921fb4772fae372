"""A captured or imported recipe as text, with what was lost on the way; and the whole report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.capture.captured import Captured, Fate, Note
from runner.recipe.creation.annotate import annotated, comment
from runner.recipe.flow import block
from runner.recipe.schema import Schema, load_schema, merged_with_branch
from runner.recipe.validate import findings
from runner.report.printable import escaped, quoted

JSON_VERSION = 1
_WIDEST = 60  # characters of a value
_TOLD = (Fate.WARNING, Fate.LOST, Fate.CLOSE)  # what a reader of the recipe must know


def as_recipe(made: Captured, origin: str, first: str = "") -> str:
    """The recipe's text: every value stands in it, and above it what it cannot say.

    `origin` begins the head; `first` is a line for editors.
    """
    return "\n".join([*([first] if first else []), *_head(made, origin), "", _body(made)])


def _body(made: Captured) -> str:
    schema = load_schema()
    if findings(made.recipe, schema):  # it is for a person to finish
        return "\n".join(block(made.recipe)) + "\n"
    told = {pointer: escaped(reason) for pointer, reason in made.reasons.items()}
    return annotated(_in_order(made.recipe, schema), schema, told)


def _in_order(value: Any, schema: Schema) -> Any:
    """Valid data with its keys as the schema has them, not as they were found."""
    if not isinstance(value, dict):
        return value
    if "oneOf" in schema:
        schema = merged_with_branch(value, schema)
    known = schema.get("properties", {})
    first = {key: _in_order(value[key], known[key]) for key in known if key in value}
    return first | {key: value[key] for key in value if key not in first}


def _head(made: Captured, origin: str) -> Iterator[str]:
    yield from comment(
        f"{escaped(origin)}. Every value is written out, since its defaults are others than ours. "
        "Add evaluate, merge, gguf and ollama to go on to a deployed model."
    )
    told = [note for note in made.sorted() if note.fate in _TOLD]
    if told:
        yield "#"
        yield "# What is not as it was:"
        for note in told:
            yield from comment(_sentence(note), "", "#   ", "#     ")


def _sentence(note: Note) -> str:
    becomes = f" -> {escaped(note.becomes)}" if note.becomes else ""
    why = f" ({escaped(note.why)})" if note.why else ""
    return f"{note.fate}: {escaped(note.name)}: {_value(note.value)}{becomes}{why}"


def _value(value: Any) -> str:
    """On one line, with no character that could do anything."""
    if isinstance(value, str):
        return quoted(value, _WIDEST)
    text = escaped(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def as_text(made: Captured) -> str:
    """One line a setting, the ones to look at first."""
    return "\n".join(_lines(made))


def _lines(made: Captured) -> Iterator[str]:
    for note in made.sorted():
        becomes = f" -> {escaped(note.becomes)}" if note.becomes else ""
        why = f" ({escaped(note.why)})" if note.why else ""
        yield f"{note.fate:<15} {escaped(note.name)}: {_value(note.value)}{becomes}{why}"


def as_json(made: Captured, **more: Any) -> str:
    """The recipe and every note, for machines."""
    notes = [
        {
            "fate": note.fate.value,
            "name": note.name,
            "value": note.value,
            "becomes": note.becomes,
            "why": note.why,
        }
        for note in made.sorted()
    ]
    report = {"schema": JSON_VERSION, **more, "recipe": made.recipe, "settings": notes}
    return json.dumps(report, indent=2, ensure_ascii=False, default=str)
