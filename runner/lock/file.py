"""Lock files: `x.lock.yaml` beside `x.yaml`. Text that diffs well: sorted, no clock, no host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import LockStale, UsageError
from runner.recipe.flow import block

SUFFIX = ".lock.yaml"


def lock_path(recipe: Path) -> Path:
    """`quickstart.yaml` -> `quickstart.lock.yaml`, beside it."""
    return recipe.with_name(recipe.name.removesuffix(recipe.suffix) + SUFFIX)


def recipe_path(lock: Path) -> Path:
    """The recipe a lock was made from; it need not exist."""
    return lock.with_name(lock.name.removesuffix(SUFFIX) + ".yaml")


def is_lock(path: Path) -> bool:
    """By its name."""
    return path.name.endswith(SUFFIX)


def head_of(recipe: str) -> list[str]:
    """The comment above a lock beside the recipe file of that name."""
    return [
        f"# Written by `recipe lock {recipe}`. Do not edit: lock the recipe again.",
        f"# It can itself be run: recipe run {lock_path(Path(recipe)).name}",
    ]


def as_text(lock: Mapping[str, Any], head: Sequence[str]) -> str:
    """The file's text, below the comment lines `head`; reading it gives `lock` again."""
    return "\n".join([*head, *block(dict(lock))]) + "\n"


def read_lock(path: Path) -> dict[str, Any]:
    """The lock at `path`. Raises UsageError (E801) when it is none, LockStale when it is newer."""
    from runner.lock.pins import LOCK
    from runner.recipe.schema import load_schema
    from runner.recipe.source import read_source
    from runner.recipe.validate import findings

    source = read_source(path)
    data = source.data
    if isinstance(data, dict) and isinstance(data.get("lock"), int) and data["lock"] > LOCK:
        raise LockStale(
            f"{path} is a lock of version {data['lock']}; this Spark Recipes knows {LOCK}",
            hint=f"use Spark Recipes {data.get('runner', '')} or newer",
            code="E803",
        )
    found = [] if source.problems else findings(data, load_schema("lock-1"))
    if source.problems or found:
        first = source.problems[0].message if source.problems else found[0].message
        raise UsageError(
            f"{path} is not a lock: {first}",
            hint=f"write it anew: recipe lock {recipe_path(path)}",
            code="E801",
        )
    assert isinstance(data, dict)
    return data
