"""A file of settings that a stranger may have written: read within bounds, never run.

YAML is read as recipes are (no tags, anchors, aliases, duplicate keys), Python by its syntax.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid, UsageError
from runner.imports.calls import Call, calls_in, calls_in_notebook
from runner.recipe.source import MAX_BYTES, parse_source
from runner.report.printable import quoted
from runner.system.regular import NotReadable, read_regular

MAX_NOTEBOOK_BYTES = 8 * 1024 * 1024  # a notebook carries its outputs, pictures among them


@dataclass(frozen=True, slots=True)
class Document:
    """`settings` of a YAML or JSON file; `calls` of a Python file or a notebook, in their order.

    `unread` says what of a notebook was left out because it is no Python.
    """

    path: Path
    settings: dict[str, Any]
    calls: tuple[Call, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def is_python(self) -> bool:
        """A program, and so no mapping of settings."""
        return self.path.suffix in (".py", ".ipynb")


def read_document(path: Path) -> Document:
    """What stands in the file `path`. Raises UsageError (E853) for what is no file of settings."""
    content = _bytes(path)
    try:
        if path.suffix == ".ipynb":
            calls, unread = calls_in_notebook(_object(content))
            return Document(path, {}, calls, unread)
        if path.suffix == ".py":
            calls, unread = calls_in(content.decode("utf-8"))
            return Document(path, {}, calls, unread)
        return Document(path, _settings(content, path))
    except (ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(path, str(error).split("\n")[0] or type(error).__name__) from None


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_NOTEBOOK_BYTES if path.suffix == ".ipynb" else MAX_BYTES)
    except NotReadable as error:
        hint = "`recipe capture` takes a run's folder of the web UI" if path.is_dir() else ""
        raise _unreadable(path, str(error), hint) from None


def _settings(content: bytes, path: Path) -> dict[str, Any]:
    data = _object(content) if path.suffix == ".json" else _of_yaml(content, path)
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("it is no mapping of settings to values")
    return data


def _of_yaml(content: bytes, path: Path) -> Any:
    try:
        source = parse_source(content, path)
    except RecipeInvalid as error:
        first = error.diagnostics[0]
    else:
        if not source.problems:
            return source.data
        first = source.problems[0]
    raise ValueError(f"line {first.line}: {first.message}" if first.line else first.message)


def _object(content: bytes) -> Any:
    """JSON without what JSON does not have, and without a key that stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a key stands twice")
        return made

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    return json.loads(content, object_pairs_hook=once, parse_constant=refuse)


def _unreadable(path: Path, why: str, hint: str = "") -> UsageError:
    return UsageError(
        f"{quoted(str(path), 120)} cannot be imported: {why}",
        hint=hint or "name a YAML or JSON file of settings, a notebook or a Python file",
        code="E853",
    )
