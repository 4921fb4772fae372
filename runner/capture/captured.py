"""What a capture or an import found: the recipe, and what became of every setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fate(StrEnum):
    """What became of a setting, in the order of the report."""

    WARNING = "warning"  # to be decided by a person
    LOST = "not expressible"
    CLOSE = "approximated"
    MAPPED = "mapped"
    DEFAULT = "default"  # the file is silent: what its tool does then, written out
    NO_EFFECT = "no effect"


@dataclass(frozen=True, slots=True)
class Note:
    """One setting. `becomes`: the recipe's value; `why`: what a person should know."""

    fate: Fate
    name: str
    value: Any
    becomes: str = ""
    why: str = ""


@dataclass
class Captured:
    """`recipe` is plain data, to be written; notes are kept in the order they came.

    `reasons` maps a JSON pointer to where its value is from.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def note(self, fate: Fate, name: str, value: Any, *, becomes: str = "", why: str = "") -> None:
        """Say what became of a setting."""
        self.notes.append(Note(fate, name, value, becomes, why))

    def sorted(self) -> Iterator[Note]:
        """The worst first, then by name."""
        order = list(Fate)
        return iter(sorted(self.notes, key=lambda note: (order.index(note.fate), note.name)))
