"""Unquoted scalars by the YAML 1.2 core schema: `on` and `1_000` are text, `017` is 17."""

from __future__ import annotations

import math
import re
from typing import Any

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 40  # characters; a 64-bit integer has 20


class NotANumber(Exception):
    """A number that neither JSON nor a 64-bit machine can hold."""


def plain_value(text: str) -> Any:
    """An unquoted scalar by the YAML 1.2 core schema. Raises NotANumber."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _float(text)
    if _NOT_FINITE.fullmatch(text):
        raise NotANumber(f"{text} is not a finite number")
    return text


def is_text(plain: str) -> bool:
    """Does an unquoted scalar stay text?"""
    try:
        return isinstance(plain_value(plain), str)
    except NotANumber:
        return False


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise NotANumber("the number does not fit into 64 bits")
    value = int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if not -(2**63) <= value < 2**63:
        raise NotANumber("the number does not fit into 64 bits")
    return value


def _float(text: str) -> float:
    if len(text) > _LONGEST_NUMBER:
        raise NotANumber(f"the number has more than {_LONGEST_NUMBER} characters")
    value = float(text)
    if math.isinf(value):
        raise NotANumber(f"{text} does not fit into a float")
    if value == 0.0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise NotANumber(f"{text} is too small for a float and would become 0")
    return value
