"""Diagnostics as a SARIF 2.1.0 log (OASIS, "Static Analysis Results Interchange Format")."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner import __version__
from runner.report.diagnostic import Diagnostic
from runner.report.explanations import explained, title

VERSION = "2.1.0"


def log(diagnostics: Sequence[Diagnostic]) -> str:
    """One run, with a rule for every code that occurs."""
    sections = explained()
    codes = sorted({diagnostic.code for diagnostic in diagnostics})
    driver = {
        "name": "Spark Recipes",
        "version": __version__,
        "rules": [_rule(code, sections[code]) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(diagnostic, codes) for diagnostic in diagnostics],
    }
    return json.dumps({"version": VERSION, "runs": [run]}, indent=2) + "\n"


def _rule(code: str, section: str) -> dict[str, Any]:
    return {
        "id": code,
        "shortDescription": {"text": title(section)},
        "help": {"text": section, "markdown": section},
    }


def _result(diagnostic: Diagnostic, codes: list[str]) -> dict[str, Any]:
    hint = f"\nhint: {diagnostic.hint}" if diagnostic.hint else ""
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(diagnostic.file)}}
    if diagnostic.line:
        place["region"] = {
            "startLine": diagnostic.line,
            "startColumn": diagnostic.column,
            "endLine": diagnostic.end_line,
            "endColumn": diagnostic.end_column,
        }
    return {
        "ruleId": diagnostic.code,
        "ruleIndex": codes.index(diagnostic.code),
        "level": diagnostic.severity,
        "message": {"text": diagnostic.message + hint},
        "locations": [{"physicalLocation": place}],
    }


def _uri(file: str) -> str:
    """A relative reference for a path below the working folder, else a file URI."""
    path = Path(os.path.normpath(file))  # without `..`, else code scanning does not find the file
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path))
