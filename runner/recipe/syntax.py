"""What a YAML parser says about a mistake -> what it means to the person who wrote the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from runner.recipe.source import Span, at_span
from runner.report.diagnostic import Diagnostic
from runner.report.printable import escaped

_NEVER_CLOSED = "is opened and never closed"
_NO_COLON = 'a key without ":"'
TAB = "a tab cannot stand here"
NO_TABS = "YAML is indented with spaces"
NO_CHARACTER = "this escape is no character"
USE_EIGHT_DIGITS = 'write the character itself, or "\\U" and eight hex digits'

# Phrases of libyaml's and of PyYAML's own parser; the first that is found counts.
_SYNTAX = (
    (
        r"mapping values are not allowed",
        'a ": " cannot stand here',
        'quote the text that contains ": ", or indent the line like its neighbours',
    ),
    (
        r"did not find expected key|expected <block end>",
        "this line does not fit into the block above it",
        "lines of one block start in the same column",
    ),
    (
        r"did not find expected '-' indicator",
        "this line does not fit into the list above it",
        'items of one list start with "- " in the same column',
    ),
    (r"could not find expected ':'", _NO_COLON, 'write "key: value"'),
    (
        r"unexpected end of stream|document separator",
        f"a quote {_NEVER_CLOSED}",
        "close it",
    ),
    (
        r"expected ',' or '[\]}]'",
        f"a bracket {_NEVER_CLOSED}, or a comma is missing",
        "separate items by commas and close the bracket",
    ),
    (
        r"sequence entries are not allowed",
        "a list item cannot stand here",
        'start each "- " on a line of its own',
    ),
    (
        r"<document start>",
        "this belongs to nothing above it",
        "a recipe is one mapping of keys to values",
    ),
    (
        r"Unicode character escape",
        NO_CHARACTER,
        USE_EIGHT_DIGITS,
    ),
    (
        r"cannot start any token",
        "text cannot start with this character",
        "put the text into quotes",
    ),
)


def explain(error: Any, text: str, path: Path) -> Diagnostic:
    """The diagnostic for a yaml.MarkedYAMLError raised while parsing `text`."""
    mark = error.problem_mark or error.context_mark
    if text[mark.index : mark.index + 1] == "\t":
        return at_span(path, "E114", _span(mark), TAB, hint=NO_TABS)
    said = error.problem or "this is not YAML"
    for pattern, meaning, hint in _SYNTAX:
        if re.search(pattern, said):
            begun_elsewhere = _NEVER_CLOSED in meaning or meaning == _NO_COLON
            if begun_elsewhere and error.context_mark is not None:
                mark = error.context_mark
            return at_span(path, "E113", _span(mark), meaning, hint=hint)
    return at_span(path, "E113", _span(mark), escaped(said), hint="docs/recipe.md shows a recipe")


def _span(mark: Any) -> Span:
    return Span(mark.line + 1, mark.column + 1, mark.line + 1, mark.column + 2)
