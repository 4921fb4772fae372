"""A folder for work that must not meet what is already there: empty, and gone at the end."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.errors import Busy
from runner.store.atomic import disk_errors
from runner.store.locks import Lock
from runner.store.roots import forget_roots
from runner.store.store import Store


@contextlib.contextmanager
def passing_runs(cache: Path, store: Store) -> Iterator[Path]:
    """A clean place for folders of runs that fill `store` and that nobody is to find again."""
    with clean_place(cache) as place:
        try:
            yield place
        finally:
            forget_roots(store, place)


@contextlib.contextmanager
def clean_place(cache: Path) -> Iterator[Path]:
    """An empty folder in the cache, removed at the end; those of killed processes go first."""
    base = cache / "verify"
    with disk_errors("making a clean place", base):
        base.mkdir(parents=True, exist_ok=True)
    for lock in sorted(base.glob("*.lock")):
        _remove_if_free(lock)
    name = secrets.token_hex(8)
    lock, place = base / f"{name}.lock", base / name
    with Lock(lock, "the clean place", wait=False) as held:
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
            held.remove()


def _remove_if_free(lock: Path) -> None:
    with contextlib.suppress(Busy), Lock(lock, "an old clean place", wait=False) as held:
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        held.remove()
