"""Digests of data and of files: what keys, locks and manifests are made of."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one JSON text of `value`: keys sorted, no spaces, UTF-8.

    Takes mappings with string keys, lists, tuples, str, int, float, bool and None. Raises TypeError
    on anything else (a dataclass, an enum or a Path would change its text with its class, not with
    its meaning) and ValueError on NaN and infinities, which JSON cannot say.
    """
    return json.dumps(
        _plain(value, "value"),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
    ).encode()


def canonical_sha256(value: Any) -> str:
    """Hex sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, streamed: memory does not grow with the file."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any, place: str) -> Any:
    """A copy of `value` made of JSON's own types; `place` is where it stands, for the error."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{place} is {value}, which JSON cannot say")
        return value
    if isinstance(value, Mapping) and not isinstance(value, enum.Enum):
        return {_key(key, place): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{place} is a {type(value).__name__}, not plain JSON data")


def _key(key: object, place: str) -> str:
    if type(key) is not str:
        raise TypeError(f"{place} has the key {key!r}, which is not a string")
    return key
