"""Which files of a folder are recipes, syntheses and judges: by their text."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.system.regular import NotReadable, open_regular, walk

_SUFFIXES = (".yaml", ".yml")
_HEAD = 64 * 1024  # bytes of a file that decide whether it is a recipe
_SCHEMA_KEY = re.compile(rb"^[\"']?schema[\"']?[ \t]*:", re.MULTILINE)
_SECTION_KEY = re.compile(rb"^[\"']?(model|data|train)[\"']?[ \t]*:", re.MULTILINE)
_FLOW_SCHEMA_KEY = re.compile(rb"\A(?:\s|#[^\n]*\n)*\{[^}]*?[\"']?\bschema\b[\"']?\s*:")
_BESIDE_KEY = re.compile(rb"^[\"']?(synthesis|judge)[\"']?[ \t]*:[ \t]*\d", re.MULTILINE)
_BASE_KEY = re.compile(
    rb"^(?:[\"']?extends[\"']?[ \t]*:.*\.ya?ml\b|[\"']?abstract[\"']?[ \t]*:[ \t]*true\b)",
    re.MULTILINE,
)


def folders_below(
    folder: Path, wanted: Callable[[Path], bool]
) -> Iterator[tuple[Path, list[Path], str]]:
    """Each folder from `folder` down, the `wanted` files in order of path, why it cannot be read.

    Links to folders are not followed.
    """
    for where, names, problem in walk(folder, enter=lambda name: not name.startswith(".")):
        paths = (where / name for name in names)
        yield where, [path for path in paths if wanted(path)], problem


def recipes_below(folder: Path) -> Iterator[Path]:
    """Recipes in `folder` and below, in order of path; what cannot be read holds none."""
    for _, recipes, _ in folders_below(folder, is_recipe):
        yield from recipes


def is_checked(path: Path) -> bool:
    """Is this file of a folder looked at: a recipe, a synthesis, a judge?"""
    return is_recipe(path) or (is_recipe_name(path.name) and bool(kind_beside(path)))


def kind_beside(path: Path) -> str:
    """What else this file is by its text: "synthesis", "judge", or "" for a recipe and others."""
    head = _head(path)
    if not head or _marked(head):
        return ""
    found = _BESIDE_KEY.search(head)
    return found[1].decode() if found else ""


def is_recipe(path: Path) -> bool:
    """Would this file be checked as one of a folder?"""
    return is_recipe_name(path.name) and looks_like_a_recipe(path)


def is_recipe_name(name: str) -> bool:
    """A YAML file that is neither hidden nor a lock."""
    lock = name.endswith(tuple(f".lock{suffix}" for suffix in _SUFFIXES))
    return name.endswith(_SUFFIXES) and not name.startswith(".") and not lock


def looks_like_a_recipe(path: Path) -> bool:
    """Decided by its text, so that a recipe with a slip in `schema:` is still checked, not skipped.

    A file that cannot be read counts as one: the error is then reported, not hidden.
    """
    head = _head(path)
    return head is None or _marked(head)


def _marked(head: bytes) -> bool:
    sections = {match[1] for match in _SECTION_KEY.finditer(head)}
    marked = _SCHEMA_KEY.search(head) or _BASE_KEY.search(head) or _FLOW_SCHEMA_KEY.match(head)
    return bool(marked) or len(sections) >= 2


def _head(path: Path) -> bytes | None:
    """The begin of a file, b"" of what is none; None where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with open_regular(path) as file:
            return file.read(_HEAD) or b""  # None: a file of the kernel with nothing to say yet
    except (OSError, NotReadable):
        return None
