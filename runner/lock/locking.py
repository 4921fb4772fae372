"""Make a lock, check one, and decide whether a run goes by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import LockStale
from runner.lock.file import as_text, head_of, is_lock, lock_path, read_lock, recipe_path
from runner.lock.pins import cheap_pins, model_facts, model_pins, stale_entries
from runner.stages import fetch_reward
from runner.store.atomic import write_as_told

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs

FetchModel = Callable[["Recipe"], Mapping[str, "Outputs"]]
ORDER = (
    *("lock", "runner", "recipe", "files", "model", "reward", "facts", "environments", "tools"),
    "stages",
)


def make_lock(recipe: Recipe, fetch: FetchModel) -> dict[str, Any]:
    """Everything pinned. `fetch` gives the files of the base model, and of a reward model where the
    recipe has one, from the store or their source, by stage."""
    outputs = fetch(recipe)
    found = cheap_pins(recipe)
    found["model"], found["facts"] = model_pins(outputs["fetch"]), model_facts(outputs["fetch"])
    if fetch_reward.NAME in outputs:
        found["reward"] = model_pins(outputs[fetch_reward.NAME])
    return {name: found[name] for name in ORDER if name in found}


def write_lock(recipe: Recipe, lock: Mapping[str, Any]) -> Path:
    """Write `x.lock.yaml` beside the recipe, atomically, and return its path.

    Raises MachineCannot.
    """
    file = recipe.source.path
    path = lock_path(file)
    write_as_told(path, as_text(lock, head_of(file.name)))
    return path


def require_fresh(recipe: Recipe, path: Path) -> dict[str, Any]:
    """The lock at `path`. Raises LockStale (E802, exit 5) with one line per stale entry.

    No network: the base model's own bytes are checked when they are fetched.
    """
    lock = read_lock(path)
    if entries := stale_entries(lock, cheap_pins(recipe)):
        raise stale(path, lock, entries)
    return lock


def stale(path: Path, lock: Mapping[str, Any], entries: list[str]) -> LockStale:
    """The error for a lock whose `entries` are no longer so, with what to type next."""
    import runner

    again = f"lock the recipe again: recipe lock {recipe_path(path)}"
    older = lock["runner"] != runner.__version__
    version = f", or run it with Spark Recipes {lock['runner']}, which wrote it" if older else ""
    what = "entry is" if len(entries) == 1 else "entries are"
    return LockStale(
        f"{path}: {len(entries)} {what} stale", hint=again + version, code="E802", entries=entries
    )


def check_model(lock: Mapping[str, Any], outputs: Outputs) -> None:
    """Raise LockStale (E804) when `fetch` gave other files than the lock pins."""
    from runner.plan.plan import list_changes

    if entries := list_changes(dict(lock["model"]), model_pins(outputs)):
        raise _other_bytes("the base model", lock["recipe"]["model"], entries)


def check_reward(lock: Mapping[str, Any], outputs: Outputs) -> None:
    """Raise LockStale (E804, E367) when `fetch_reward` gave other files than the lock pins."""
    from runner.plan.plan import list_changes

    if entries := list_changes(dict(lock.get("reward", {})), model_pins(outputs)):
        raise _other_bytes("the reward model", lock["recipe"]["reward"], entries)


def _other_bytes(what: str, section: Mapping[str, Any], entries: list[str]) -> LockStale:
    if section.get("recipe") is not None:
        return _other_result(section["recipe"]["name"], entries)
    return LockStale(
        f"{what} is not the one in the lock: other bytes came under the same name",
        hint="find out why they changed; if you trust them, lock the recipe again",
        code="E804",
        entries=entries,
    )


def _other_result(name: str, entries: list[str]) -> LockStale:
    return LockStale(
        f"the recipe {name} gave another model here than the one in the lock",
        hint="equal bytes of a training are claimed on one platform: run the recipe itself, "
        "without its lock, or lock it again here",
        code="E367",
        entries=entries,
    )


def lock_of_run(
    recipe: Recipe, *, required: bool, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """The lock that a run of `recipe` goes by, or None.

    A lock that is run itself, or `required`, must be fresh: else LockStale (exit 5). A stale one
    beside the recipe is warned of, and the run goes on without it.
    """
    file = recipe.source.path
    if is_lock(file):
        return require_fresh(recipe, file)
    path = lock_path(file)
    if not path.is_file():
        if required:
            raise LockStale(
                f"--locked, and there is no {path}", hint=f"write it: recipe lock {file}"
            )
        return None
    try:
        return require_fresh(recipe, path)
    except LockStale as error:
        if required:
            raise
        warn(f"{error.message}\n  running without the lock; to renew it: recipe lock {file}")
        return None


def outputs_checker(lock: Mapping[str, Any] | None) -> Callable[[Outputs], None]:
    """What a locked run checks as soon as a stage has its outputs, before the next one starts."""

    def check(outputs: Outputs) -> None:
        if lock is not None and outputs.stage == "fetch":
            check_model(lock, outputs)
        if lock is not None and outputs.stage == fetch_reward.NAME:
            check_reward(lock, outputs)

    return check
