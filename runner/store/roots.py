"""Roots: which runs use which outputs, so that `collect` removes only what nobody uses.

A root is dead when its run folder was deleted, and only then. That a path is not there proves
nothing: another checkout, another container or an unmounted volume looks the same. So a root also
remembers the identity (device, inode) of the folders above the run folder, `runs/NAME`, `runs` and
the project, as far as they are on the same file system. When the nearest folder that exists is one
of them and still the very one it was, the run folder was deleted out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runner.store.atomic import disk_errors, write_atomic
from runner.store.locks import Lock
from runner.store.store import Store

SCHEMA = 1
REMEMBERED_PARENTS = 3  # runs/NAME, runs, the project: above that, "moved" looks like "deleted"


@dataclass(frozen=True, slots=True)
class Root:
    """One run folder and the (stage, key) pairs it uses. `file` is where that is written down."""

    file: Path
    folder: Path
    entries: frozenset[tuple[str, str]]
    dead: bool


def register_root(store: Store, run_folder: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Write down that the run in `run_folder` uses these (stage, key) pairs, and no others.

    The folder must exist. Call it again with the longer list after each stage, while that stage's
    key is still locked: `collect` locks a key before it removes its outputs and then reads the
    roots, so there is no moment at which a result can be taken away.
    """
    folder = Path(os.path.abspath(run_folder))  # noqa: PTH100 - resolve() would follow links
    data = {
        "schema": SCHEMA,
        "folder": str(folder),
        "above": _above(folder),
        "entries": sorted([stage, key] for stage, key in entries),
    }
    with disk_errors("registering the run", store.root), roots_lock(store):
        file = _root_file(store, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(data, indent=1, sort_keys=True) + "\n")


def forget_roots(store: Store, place: Path) -> None:
    """Forget the runs in `place`, a folder of passing work that is gone: they keep nothing."""
    with disk_errors("forgetting a run", store.root), roots_lock(store):
        for file in sorted((store.root / ".roots").glob("*.json")):
            with contextlib.suppress(ValueError):  # what cannot be read is for `collect` to say
                if _read_root(file).folder.is_relative_to(place):
                    file.unlink()


def roots_lock(store: Store) -> Lock:
    """Held while the folder of roots is written to or swept."""
    return Lock(store.root / ".locks" / "roots.lock", "the list of runs")


def read_roots(store: Store) -> list[Root]:
    """Every registered run, dead or alive. Raises ValueError naming a file that is no root."""
    return [_read_root(file) for file in sorted((store.root / ".roots").glob("*.json"))]


def _root_file(store: Store, folder: Path) -> Path:
    return store.root / ".roots" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()}.json"


def _read_root(file: Path) -> Root:
    try:
        data = json.loads(file.read_bytes())
        folder = Path(data["folder"])
        entries = frozenset((str(stage), str(key)) for stage, key in data["entries"])
        return Root(file, folder, entries, _was_deleted(folder, data["above"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


def _above(folder: Path) -> dict[str, list[int]]:
    device = folder.stat().st_dev
    parents = folder.parents[:REMEMBERED_PARENTS]
    return {str(parent): _identity(parent) for parent in parents if parent.stat().st_dev == device}


def _was_deleted(folder: Path, above: dict[str, list[int]]) -> bool:
    try:
        if os.path.lexists(folder):
            return False
        nearest = next(parent for parent in folder.parents if _is_there(parent))
        return above.get(str(nearest)) == _identity(nearest)
    except PermissionError:  # in the home of another user: nobody can tell
        return False


def _is_there(folder: Path) -> bool:
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _identity(folder: Path) -> list[int]:
    found = folder.stat()
    return [found.st_dev, found.st_ino]
