"""A recipe as text that explains itself: each key under the schema's own description of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from runner.recipe.flow import flow
from runner.recipe.schema import Schema, merged_with_branch
from runner.recipe.source import escape_token

WIDTH = 100
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]*)\)")


def annotated(data: Mapping[str, Any], schema: Schema, reasons: Mapping[str, str]) -> str:
    """`data`, valid by `schema`, as YAML in its own order, comments above each key.

    `reasons` maps a JSON pointer to why the value is what it is; it stands below the description.
    """
    lines: list[str] = []
    for key, value in data.items():
        entry = list(_entry(key, value, schema["properties"][key], reasons, f"/{key}", ""))
        apart = isinstance(value, dict) and lines and lines[-1]
        lines += ["", *entry, ""] if apart else [*entry, *([""] if isinstance(value, dict) else [])]
    return "\n".join(lines).rstrip("\n") + "\n"


def comment(text: str, indent: str = "", first: str = "# ", later: str = "# ") -> list[str]:
    """`text` as comment lines of at most WIDTH columns."""
    return textwrap.wrap(
        _LINK.sub(r"docs/\2", text),
        WIDTH,
        initial_indent=indent + first,
        subsequent_indent=indent + later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _entry(
    key: str, value: Any, schema: Schema, reasons: Mapping[str, str], pointer: str, indent: str
) -> Iterator[str]:
    if "description" in schema:
        yield from comment(schema["description"], indent)
    if pointer in reasons:
        yield from comment(reasons[pointer], indent, "#   ", "#   ")
    if isinstance(value, dict) and value:
        yield f"{indent}{key}:"
        yield from _mapping(value, schema, reasons, pointer, indent + "  ")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield f"{indent}{key}:"
        yield from (f"{indent}  - {flow(item)}" for item in value)
    else:
        yield f"{indent}{key}: {_scalar(value)}"


def _mapping(
    data: Mapping[str, Any], schema: Schema, reasons: Mapping[str, str], pointer: str, indent: str
) -> Iterator[str]:
    if "oneOf" in schema:
        schema = merged_with_branch(data, schema)
    for key, value in data.items():
        below = f"{pointer}/{escape_token(key)}"
        yield from _entry(key, value, schema["properties"][key], reasons, below, indent)


def _scalar(value: Any) -> str:
    """As `flow`; a small number as people write a learning rate, to its last digit."""
    if isinstance(value, float) and 0 < value < 0.001:
        _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        first, *rest = map(str, digits)
        return f"{first}.{''.join(rest) or '0'}e{int(exponent) + len(rest)}"
    return flow(value)
