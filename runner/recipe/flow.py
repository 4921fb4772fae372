"""Values as YAML that reads back as the same values: on one line, or as a block."""

from __future__ import annotations

import re
from typing import Any

from runner.recipe.scalars import is_text
from runner.report.printable import quoted

# What surely needs no quotes, in brackets or outside of them.
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./=-]*")


def flow(value: Any) -> str:
    """`value` in YAML's flow style. Keys must be plain words."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and is_text(value) else quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value)


def block(value: dict[str, Any], indent: str = "") -> list[str]:
    """`value` in YAML's block style, a line an entry; lists of plain values stay on one line."""
    lines = []
    for key, item in value.items():
        name = f"{indent}{flow(str(key))}:"
        if isinstance(item, dict) and item:
            lines += [name, *block(item, indent + "  ")]
        elif isinstance(item, list) and any(isinstance(each, dict) for each in item):
            lines.append(name)
            for each in item:
                lines += _item(each, indent + "  ")
        else:
            lines.append(f"{name} {flow(item)}")
    return lines


def _item(value: Any, indent: str) -> list[str]:
    if not is_deep(value):
        return [f"{indent}- {flow(value)}"]
    first, *more = block(value, indent + "  ")
    return [f"{indent}- {first.lstrip()}", *more]


def is_deep(value: Any) -> bool:
    """Is `value`, an item of a list, too much for a line: a mapping three levels deep?"""
    inner = [each for each in value.values() if isinstance(each, dict)] if _is_map(value) else []
    return any(_is_map(each) for mapping in inner for each in mapping.values())


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)
