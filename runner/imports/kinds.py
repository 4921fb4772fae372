"""Whose file it is: told by the settings in it that one tool has and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.errors import UsageError
from runner.imports import REGISTRY, load_import
from runner.imports.document import Document
from runner.recipe.finding import listed
from runner.report.printable import quoted

_SHOWN = 4


def kind_of(document: Document, asked: str | None = None) -> tuple[str, str]:
    """The kind, and the reason. Raises UsageError (E854) when the file does not tell it."""
    if asked is not None:
        if document.is_python is not load_import(asked).READS_PROGRAMS:
            what = "a Python program" if document.is_python else "no Python program"
            raise _unknown(document, f"it is {what}, and --as says {asked}")
        return asked, "--as says so"
    if document.is_python:
        return _of_python(document)
    if {"schema", "model", "train"} <= document.settings.keys():
        raise _unknown(document, "it is a recipe already")
    found = told_by(document.settings)
    if found is None:
        raise _unknown(document, "its settings are not those of one of them")
    kind, signs = found
    return kind, f"it has {listed_and(signs)}"


def told_by(settings: Mapping[str, Any], enough: int = 1) -> tuple[str, list[str]] | None:
    """The tool whose settings these are, and those that tell it; None when they are nobody's.

    It takes `enough` settings of that tool alone, and more than of any other.
    """
    signs = {
        kind: [name for name in settings if name in own] for kind, own in _own_settings().items()
    }
    first, second, *_ = sorted(signs, key=lambda kind: -len(signs[kind]))
    if len(signs[first]) < enough or len(signs[first]) == len(signs[second]):
        return None
    return first, signs[first][:_SHOWN]


def listed_and(names: list[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _own_settings() -> dict[str, set[str]]:
    """Settings of one tool alone, for tools that are told by a mapping."""
    known: dict[str, set[str]] = {}
    for kind in REGISTRY:
        source = load_import(kind)
        if source.READS_PROGRAMS:
            continue
        cannot = {name for table in source.CANNOT.values() for name in table}
        known[kind] = {*source.MAPPED, *source.NO_EFFECT, *cannot}
    return {
        kind: own - set().union(*(known[other] for other in known if other != kind))
        for kind, own in known.items()
    }


def _of_python(document: Document) -> tuple[str, str]:
    for kind in REGISTRY:
        if reason := load_import(kind).is_its(document):
            return kind, reason
    raise _unknown(document, "it loads no model by Unsloth (FastLanguageModel.from_pretrained)")


def _unknown(document: Document, why: str) -> UsageError:
    return UsageError(
        f"{quoted(str(document.path), 120)} is of no kind that is known here: {why}",
        hint=f"say whose it is: --as {listed(sorted(REGISTRY))}",
        code="E854",
    )
