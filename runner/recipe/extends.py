"""The bases of a recipe: `extends` read from file to file. A base is data, bounded as a recipe is.

What a base says of its own `extends` is checked as the recipe's is; what stops the reading is
reported where it stands, and the rest of the recipe is then held to what a part must be.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.recipe.checks.unfit import is_lock, unfit
from runner.recipe.finding import Finding
from runner.recipe.paths import is_readable_file, project_root, stat_mode
from runner.recipe.source import Source, parse_source, read_bytes
from runner.report.diagnostic import Diagnostic
from runner.report.printable import quoted

MAX_BASES = 8  # of one recipe


@dataclass(frozen=True, slots=True)
class Chain:
    """A recipe and its bases, nearest first. Not `whole`: reading them ended with a problem."""

    sources: tuple[Source, ...]
    problems: tuple[Diagnostic, ...] = ()

    @property
    def whole(self) -> bool:
        """Is the last file one that extends nothing?"""
        return not self.problems and base_of(self.sources[-1]) is None


def base_of(source: Source) -> Any:
    """What stands behind `extends`; None when nothing does."""
    return source.data.get("extends")


def _is_named(text: Any) -> bool:
    """Is it what the schema allows? It says itself what is wrong with anything else."""
    return isinstance(text, str) and re.fullmatch(r".+\.ya?ml", text) is not None


def read_chain(source: Source) -> Chain:
    """Follow `extends` of the mapping `source`. Reads files; writes nothing, no network."""
    root = project_root(source.path)
    sources, real_paths = [source], [source.path.resolve()]
    while _is_named(text := base_of(sources[-1])):
        last = sources[-1]
        found = _real_base(text, last, root, real_paths)
        if isinstance(found, Finding):
            return Chain(tuple(sources), (_diagnostic(last, found),))
        shown = _shown(last.path, text, found)
        try:
            base = parse_source(read_bytes(found), shown)
        except RecipeInvalid as error:
            problems = (replace(each, file=str(shown)) for each in error.diagnostics)
            return Chain(tuple(sources), tuple(problems))
        if problem := _no_base(base, text):
            return Chain(tuple(sources), (*base.problems, _diagnostic(base, problem)))
        sources.append(base)
        real_paths.append(found)
    return Chain(tuple(sources))


def _real_base(text: str, last: Source, root: Path, seen: list[Path]) -> Path | Finding:
    """The file that `text` in `last` leads to, links resolved, or why it is not read."""
    if text.startswith("/"):
        hint = "write it relative to the folder of this file"
        return Finding("E208", "/extends", f"{quoted(text, 80)} is absolute", hint)
    try:
        real = (last.folder / text).resolve()
    except (OSError, RuntimeError, ValueError):
        message = f"{quoted(text, 80)} is not a path"
        return Finding("E209", "/extends", message, "check the name and its links")
    if not real.is_relative_to(root):
        message = f"{quoted(text, 80)} leads out of the project {quoted(str(root))}"
        return Finding("E208", "/extends", message, "move the file below that folder")
    if real in seen:
        names = [path.name for path in (*seen[seen.index(real) :], real)]
        message = f"{quoted(text, 80)} is extended by itself: {' → '.join(names)}"
        return Finding("E125", "/extends", message, "put what they share into a file of its own")
    if len(seen) > MAX_BASES:
        message = f"more than {MAX_BASES} bases, one upon the other"
        return Finding("E126", "/extends", message, "put some of them into one file")
    return _unreadable(text, real) or real


def _unreadable(text: str, real: Path) -> Finding | None:
    if stat_mode(real) is None:
        hint = "paths start at the folder of the file that names them"
        return Finding("E209", "/extends", f"{quoted(text, 80)} does not exist", hint)
    if not is_readable_file(real):
        message = f"{quoted(text, 80)} is not a readable file"
        return Finding("E210", "/extends", message, "name a recipe's file")
    return None


def _no_base(base: Source, text: str) -> Finding | None:
    if is_lock(base.data):
        message = f"{quoted(text, 80)} is a lock: it pins one recipe, and is no base of another"
        return Finding("E131", "", message, "extend the recipe that it was made from")
    return unfit(base)


def _shown(recipe: Path, text: str, real: Path) -> Path:
    """The base's path as a person would name it from where they named the recipe."""
    near = Path(os.path.normpath(recipe.parent / text))
    return near if near.resolve() == real else real


def _diagnostic(source: Source, finding: Finding) -> Diagnostic:
    return source.diagnostic(finding.code, finding.pointer, finding.message, hint=finding.hint)
