"""Numbers of JSON with the digits that they were written with. Standard library only.

A float holds some 17 digits: `3.14159265358979323846` is read as another number, and `7.50` as one
that is written in another way. Who only copies a value writes it as it stood.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any


class WrittenFloat(float):
    """A float that is written in JSON as `text`; to everybody else it is the number alone."""

    __slots__ = ("text",)
    text: str


def read_float(text: str) -> float:
    """The number of a text of JSON: a plain float where Python writes it in the same way."""
    value = float(text)
    if not math.isfinite(value) or float.__repr__(value) == text:
        return value
    written = WrittenFloat(value)
    written.text = text
    return written


def with_all_digits(value: Any) -> str:
    """A JSON value as JSON, its numbers as they stood.

    Raises ValueError for an infinite number, RecursionError for one hundreds of levels deep.
    """
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _json(value) if next(_written_floats(value), None) is not None else plain


def loses_digits(value: Any) -> bool:
    """Is a number in a JSON value another one as a float?"""
    return any(_is_another(each) for each in _written_floats(value))


def _is_another(number: WrittenFloat) -> bool:
    try:
        return Decimal(number.text) != Decimal(float.__repr__(number))
    except InvalidOperation:  # an exponent of more than eighteen digits: it is read as 0.0
        return True


def _written_floats(value: Any) -> Iterator[WrittenFloat]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, WrittenFloat):
            yield each


def _json(value: Any) -> str:
    """As json.dumps writes it, which knows of floats alone."""
    if isinstance(value, WrittenFloat):
        return value.text
    if isinstance(value, dict):
        pairs = (f"{_json(str(key))}: {_json(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
