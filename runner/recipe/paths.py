"""The paths of a recipe: where they start, what they must not leave."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from runner.recipe.source import at_pointer

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

MAX_PATH_BYTES = 4096  # Linux's PATH_MAX, the ending zero byte included


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path that the recipe names at `pointer`, and what must be there."""

    pointer: str
    text: str
    kind: Literal["file", "model folder"]
    may_be_absolute: bool = False
    written: str = ""  # for messages: as the file says it that names it


def project_root(recipe: Path) -> Path:
    """The nearest folder above the file `recipe` with a `.git`, else the file's own folder.

    `.git` may be a file, as in a worktree. Links are resolved.
    """
    folder = recipe.resolve().parent
    above = (each for each in (folder, *folder.parents) if os.path.lexists(each / ".git"))
    return next(above, folder)


def named_paths(recipe: Recipe) -> Iterator[NamedPath]:
    """Every path of the recipe, in its order. Sections that are None name none."""
    if recipe.model is not None and recipe.model.path is not None:
        folder, file = recipe.model.path, recipe.model.file
        if file is None:
            yield NamedPath("/model/path", folder, "model folder", may_be_absolute=True)
        else:
            joined = str(Path(folder, file))
            yield NamedPath("/model/file", joined, "file", may_be_absolute=True)
    if recipe.model is not None and recipe.model.recipe is not None:
        yield from _paths_of_recipe(recipe, "/model/recipe", recipe.model.recipe)
    if recipe.reward is not None and recipe.reward.path is not None:
        yield NamedPath("/reward/path", recipe.reward.path, "model folder", may_be_absolute=True)
    if recipe.reward is not None and recipe.reward.recipe is not None:
        yield from _paths_of_recipe(recipe, "/reward/recipe", recipe.reward.recipe)
    if recipe.data is not None:
        for pointer, item in recipe.data_files():
            if item.path is not None:
                yield NamedPath(f"{pointer}/path", item.path, "file")
        if recipe.data.chat_template.endswith(".jinja"):
            yield NamedPath("/data/chat_template", recipe.data.chat_template, "file")
        for number, measured in enumerate(recipe.data.measured_files):
            if measured.path is not None:
                pointer = f"/data/clean/decontaminate/files/{number}/path"
                yield NamedPath(pointer, measured.path, "file")
    if recipe.evaluate is not None and recipe.evaluate.questions is not None:
        yield NamedPath("/evaluate/questions", recipe.evaluate.questions, "file")
    yield from _paths_of_tasks(recipe)
    for number, inner in enumerate(recipe.compare.recipes if recipe.compare else ()):
        yield from _paths_of_recipe(recipe, f"/compare/recipes/{number}", inner)


def _paths_of_tasks(recipe: Recipe) -> Iterator[NamedPath]:
    if recipe.evaluate is not None and recipe.evaluate.harness is not None:
        for number, task in enumerate(recipe.evaluate.harness.tasks):
            for key in ("path", "data", "fewshot"):
                if key not in task.hub_files and (text := getattr(task, key)) is not None:
                    yield NamedPath(f"/evaluate/harness/tasks/{number}/{key}", text, "file")


def _paths_of_recipe(recipe: Recipe, place: str, inner: Mapping[str, Any]) -> Iterator[NamedPath]:
    """Those of the recipe `inner` that this one names at `place`, as they stand in this one."""
    from runner.recipe.model import build_resolved

    for named in named_paths(build_resolved(inner, recipe.source.path)):
        yield replace(named, pointer=f"{place}{named.pointer}")


def replace_paths(recipe: Recipe, change: Callable[[str, str], str]) -> dict[str, Any]:
    """The resolved recipe with every relative path as `change(pointer, path)` gives it."""
    resolved = recipe.resolved()
    for named in named_paths(recipe):
        if not named.text.startswith("/"):
            pointer = re.sub("/model/file$", "/model/path", named.pointer)
            above, _, last = pointer.rpartition("/")
            holder = at_pointer(resolved, above)
            holder[last] = change(pointer, holder[last])
    return resolved


def moved_path(text: str, file: Path, folder: Path) -> str:
    """The relative path `text` of the real `file` as it is written in the real `folder`.

    Only leading `..` are resolved by their letters: behind another name, one may be a link.
    """
    base = file.parent
    parts = PurePosixPath(text).parts
    while parts and parts[0] == "..":
        base, parts = base.parent, parts[1:]
    return PurePosixPath(os.path.relpath(base, folder), *parts).as_posix()


def real_path(recipe: Recipe, text: str) -> Path | None:
    """Where `text` leads, links resolved; None when it is no path (a loop, a zero byte)."""
    return resolved(recipe.resolve(text))


def resolved(path: Path) -> Path | None:
    """`path` with links resolved; None when they cannot be, or it is longer than can be opened.

    Without that limit pathlib spends a minute on a path of 100,000 parts.
    """
    try:
        if len(os.fsencode(path)) >= MAX_PATH_BYTES:
            return None
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return None


def stat_mode(path: Path) -> int | None:
    """Mode of what is at `path`; None when nothing is, or it cannot be looked at."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def size_of(path: Path) -> int:
    """Bytes of what is at `path`; 0 when it cannot be looked at."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def is_readable_file(path: Path) -> bool:
    """A regular file that this user may read."""
    mode = stat_mode(path)
    return mode is not None and stat.S_ISREG(mode) and os.access(path, os.R_OK)
