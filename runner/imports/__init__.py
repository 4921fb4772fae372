"""What people have already, as a recipe: settings of other tools, read and never run.

A source is a module with the names of `Import` below. To add one is such a module and a line in
REGISTRY.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from runner.capture.captured import Captured
    from runner.imports.document import Document
    from runner.imports.wanted import Wanted

REGISTRY = {
    "axolotl": "runner.imports.axolotl",
    "llamafactory": "runner.imports.llamafactory",
    "trl": "runner.imports.trl",
    "unsloth": "runner.imports.unsloth",
}


class Import(Protocol):
    """The module-level names of a source.

    Its settings are in MAPPED, which a recipe has a place for, in NO_EFFECT, which decide no
    weight, or in CANNOT: reason -> setting -> the value at which nothing is lost.
    """

    TOOL: str  # for people
    READS_PROGRAMS: bool  # its settings are calls in Python, and no mapping
    MAPPED: frozenset[str]
    NO_EFFECT: frozenset[str]
    CANNOT: Mapping[str, Mapping[str, Any]]

    def is_its(self, document: Document) -> str:
        """Why a program is of this tool; "" when it is not. A mapping is told by its settings."""
        ...

    def convert(self, document: Document, wanted: Wanted) -> Captured:
        """The recipe, and what became of every setting. Raises UsageError."""
        ...


def load_import(kind: str) -> Import:
    """The module that imports files of `kind`."""
    return cast("Import", importlib.import_module(REGISTRY[kind]))
