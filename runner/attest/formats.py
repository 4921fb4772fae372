"""The formats of statements: to add one is one module and one line here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from runner.attest import cyclonedx, intoto

if TYPE_CHECKING:
    from runner.attest.finished import Finished


class Format(Protocol):
    """A module that writes a run as one JSON document."""

    PAYLOAD_TYPE: str  # media type, also of a signed envelope's payload
    MARKS: Mapping[str, str]  # members by which such a document is known

    def document(self, about: Finished, *, times: bool) -> dict[str, Any]:
        """The document as JSON data; `times` adds when the run was."""

    def has_times(self, document: Mapping[str, Any]) -> bool:
        """Does a document say when the run was?"""


FORMATS = {"intoto": cast(Format, intoto), "cyclonedx": cast(Format, cyclonedx)}


def text_of(document: Mapping[str, Any]) -> bytes:
    """The one text of a document: what is printed, and what is signed."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"


def format_of(document: Mapping[str, Any]) -> Format | None:
    """Whose document is it? None when it is none of ours."""
    for each in FORMATS.values():
        if all(document.get(name) == value for name, value in each.MARKS.items()):
            return each
    return None
