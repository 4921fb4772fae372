"""What decides the place of rows in training and validation: a few numbers a row, in columns.

Rows are anything that can be counted, gone through and taken from: a list, or rows on disk, which
bring their facts with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.dividing.kinship import Row, content_key, prompt_key
from runner.scripts.weights.floats import Array


@dataclass(frozen=True)
class Facts:
    """Columns [n]; digests are S64, hexadecimal. A column that nothing asks for is None."""

    sources: Array  # int32
    digests: Array
    plain: Array  # what a split without settings keeps together
    prompts: Array | None = None  # prompt_key
    contents: Array | None = None  # content_key
    groups: Array | None = None  # texts, or None for a row
    strata: Array | None = None
    has_turns: bool = False  # is any row more than a plain text?

    def take(self, indexes: Array) -> Facts:
        """Those of some of the rows, in the order of `indexes`."""
        taken = (None if column is None else column[indexes] for column in self.columns())
        return Facts(*taken, self.has_turns)  # type: ignore[arg-type]

    def columns(self) -> tuple[Array | None, ...]:
        """All of them, in the order of the fields."""
        return (
            *(self.sources, self.digests, self.plain),
            *(self.prompts, self.contents, self.groups, self.strata),
        )


def facts_of(
    rows: Iterable[Row], plain: Callable[[Any], str], settings: Mapping[str, Any]
) -> Facts:
    """Of rows one by one. `plain`: digest of what a split without settings keeps together."""
    rows = list(rows)
    digests = np.array([row.digest() for row in rows], "S64")
    leaks, kin = _looks_for_leaks(settings), goes_by_kin(settings)
    near = bool(settings.get("near"))
    return Facts(
        np.array([row.traits.source for row in rows], np.int32),
        digests,
        digests if plain is Conversation.digest else np.array([plain(row) for row in rows], "S64"),
        np.array([prompt_key(row) for row in rows], "S64") if kin or leaks else None,
        np.array([content_key(row) for row in rows], "S64") if leaks or near else None,
        _texts([row.traits.group for row in rows]),
        _texts([row.traits.stratum for row in rows]),
        any(not isinstance(row, Conversation) or row.text is None for row in rows),
    )


def joined(parts: Sequence[Facts]) -> Facts:
    """The columns of several parts, one behind the other."""
    if not parts:
        none = np.empty(0, "S64")
        return Facts(np.empty(0, np.int32), none, none, none, none)
    columns = zip(*(part.columns() for part in parts), strict=True)
    lengths = [len(part.sources) for part in parts]
    whole = (_column(column, lengths) for column in columns)
    return Facts(*whole, any(part.has_turns for part in parts))  # type: ignore[arg-type]


def goes_by_kin(settings: Mapping[str, Any]) -> bool:
    """Does the split keep rows together that are more than equal?"""
    return bool({"stable", "group_by", "stratify"} & {*settings.get("split", {})})


def _looks_for_leaks(settings: Mapping[str, Any]) -> bool:
    return settings.get("split", {}).get("on_leak", "allow") != "allow"


def _texts(values: Sequence[str | None]) -> Array | None:
    """As they are; equal ones share their memory. None where there are none."""
    if all(value is None for value in values):
        return None
    known: dict[str | None, str | None] = {}
    column = np.empty(len(values), object)
    column[:] = [known.setdefault(value, value) for value in values]
    return column


def _column(parts: Sequence[Array | None], lengths: Sequence[int]) -> Array | None:
    if all(part is None for part in parts):
        return None
    return np.concatenate(
        [
            np.full(length, None) if part is None else part
            for part, length in zip(parts, lengths, strict=True)
        ]
    )
