"""The paths of a recipe: where they start, what they must not leave."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from runner.recipe.model import Recipe


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path that the recipe names at `pointer`, and what must be there."""

    pointer: str
    text: str
    kind: Literal["file", "model folder"]
    may_be_absolute: bool = False


def project_root(recipe: Path) -> Path:
    """The nearest folder above the file `recipe` with a `.git`, else the file's own folder.

    `.git` may be a file, as in a worktree. Links are resolved.
    """
    folder = recipe.resolve().parent
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)


def named_paths(recipe: Recipe) -> Iterator[NamedPath]:
    """Every path of the recipe, in its order. Sections that are None name none."""
    if recipe.model is not None and recipe.model.path is not None:
        folder, file = recipe.model.path, recipe.model.file
        if file is None:
            yield NamedPath("/model/path", folder, "model folder", may_be_absolute=True)
        else:
            joined = str(Path(folder, file))
            yield NamedPath("/model/file", joined, "file", may_be_absolute=True)
    if recipe.data is not None:
        for pointer, item in recipe.data_files():
            if item.path is not None:
                yield NamedPath(f"{pointer}/path", item.path, "file")
        if recipe.data.chat_template.endswith(".jinja"):
            yield NamedPath("/data/chat_template", recipe.data.chat_template, "file")
    if recipe.evaluate is not None and recipe.evaluate.questions is not None:
        yield NamedPath("/evaluate/questions", recipe.evaluate.questions, "file")


def real_path(recipe: Recipe, text: str) -> Path | None:
    """Where `text` leads, links resolved; None when it is no path (a loop, a zero byte)."""
    try:
        return recipe.resolve(text).resolve()
    except (OSError, RuntimeError, ValueError):
        return None


def stat_mode(path: Path) -> int | None:
    """Mode of what is at `path`; None when nothing is, or it cannot be looked at."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def is_readable_file(path: Path) -> bool:
    """A regular file that this user may read."""
    mode = stat_mode(path)
    return mode is not None and stat.S_ISREG(mode) and os.access(path, os.R_OK)
