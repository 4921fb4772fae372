"""One recipe's file brought to the newest shape: what it would be, and putting it in place."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from runner.errors import RecipeInvalid
from runner.lock.file import recipe_path
from runner.recipe.checks.unfit import is_lock, unfit
from runner.recipe.finding import missing_key
from runner.recipe.source import Source, parse_source, read_bytes
from runner.recipe.traced import with_line_ends
from runner.recipe.versions import migrated, newest, number_of, shape_diagnostics, version
from runner.report.diagnostic import Diagnostic
from runner.store.atomic import disk_errors, write_atomic


@dataclass(frozen=True, slots=True)
class Migration:
    """A file as it is and as it would be, in bytes; `found` says what stands in the way."""

    path: Path
    before: bytes
    after: bytes
    number: int  # the version that it is of
    found: tuple[Diagnostic, ...] = ()

    @property
    def changes(self) -> bool:
        """Is there anything to write?"""
        return self.before != self.after

    def diff(self) -> str:
        """The change as a unified diff."""
        old, new = (each.decode("utf-8").splitlines(True) for each in (self.before, self.after))
        name = str(self.path)
        return "".join(difflib.unified_diff(old, new, name, f"{name} (migrated)"))

    def outdated(self) -> Diagnostic:
        """For whoever only asks: the file is not of the newest version."""
        source = parse_source(self.before, self.path)
        message = f"the recipe is of schema {self.number}; the newest is {newest().number}"
        hint = f"rewrite it: recipe migrate {self.path}"
        return source.diagnostic("E151", "/schema", message, hint=hint)

    def write(self) -> None:
        """Put the new text in the file's place; a link stays a link, rights stay as they are."""
        file = self.path.resolve()
        with disk_errors(f"writing {self.path}", file):
            write_atomic(file, self.after, mode=file.stat().st_mode & 0o7777)


def migrate(path: Path) -> Migration:
    """What becomes of the recipe at `path`. Reads it and its bases, nothing else; writes nothing.

    A recipe that is wrong stays as it is: its shape is checked by its own version, before and
    after.
    """
    content = b""
    try:
        content = read_bytes(path)
        source = parse_source(content, path)
        _require_one(source)
        old = version(_number(source) or newest().number) or newest()
        if wrong := shape_diagnostics(source, old):
            raise RecipeInvalid(wrong)
        if old is newest():
            return Migration(path, content, content, old.number)
        document = migrated(source, old)
    except RecipeInvalid as error:
        return Migration(path, content, content, 0, error.diagnostics)
    wrong = shape_diagnostics(replace(document.source, problems=()), newest())
    assert not wrong, wrong  # the edit of a version is wrong, not the recipe
    return Migration(path, content, with_line_ends(document.traced, content), old.number)


def _number(source: Source) -> int | None:
    """The version that the file says it is of, or the nearest base that says one.

    Raises RecipeInvalid when none says one, or that base cannot be read.
    """
    from runner.recipe.extends import read_chain

    chain = read_chain(source)
    number = next(filter(None, map(number_of, chain.sources)), None)
    if number is None and chain.problems:
        raise RecipeInvalid(chain.problems)
    if number is None and "schema" not in source.data:
        known = newest().resolved()["properties"]["schema"]
        raise RecipeInvalid([missing_key("schema", known, "").diagnostic(source)])
    return number


def _require_one(source: Source) -> None:
    """Raises RecipeInvalid for a lock, and for what is no recipe of a known version."""
    if is_lock(source.data):
        message = "a lock is not migrated: it is written from its recipe"
        recipe = shlex.quote(str(recipe_path(source.path)))
        hint = f"migrate the recipe, then write the lock anew: recipe lock {recipe}"
        raise RecipeInvalid([source.diagnostic("E150", "/lock", message, hint=hint, at="key")])
    if (useless := unfit(source)) is not None:
        raise RecipeInvalid([*source.problems, useless.diagnostic(source)])
