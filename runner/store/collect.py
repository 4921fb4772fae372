"""`recipe gc`: find and remove what no run needs, without disturbing a running one.

Every key is locked before anything under it is removed, and the roots are read again once it is.
A key that a running process holds is left alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import Busy
from runner.store.atomic import TEMPORARY_SUFFIX, disk_errors
from runner.store.known_digests import notes_lock
from runner.store.locks import is_held
from runner.store.roots import Root, read_roots, roots_lock
from runner.store.store import State, Store


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing to remove and why, in words. `size` in bytes, counting shared bytes too."""

    path: Path
    reason: str
    size: int


@dataclass(frozen=True, slots=True)
class Collection:
    """What `collect` removed, or would remove with `dry_run`."""

    removed: list[Garbage] = field(default_factory=list)
    in_use: list[Path] = field(default_factory=list)  # held by a running process, left alone
    unresolved: list[Root] = field(default_factory=list)  # their run folder is out of sight
    dry_run: bool = False

    @property
    def freed(self) -> int:
        """Bytes of what was removed."""
        return sum(item.size for item in self.removed)


def collect(store: Store, *, dry_run: bool, notes: Path | None = None) -> Collection:
    """Remove outputs that no root refers to, staging nobody works in, and litter of killed runs.

    `notes` is the folder of remembered digests, which lies beside the store.
    Raises ValueError when a root cannot be read: then nobody knows what it refers to.
    """
    sweep = _Sweep(store, Collection(dry_run=dry_run))
    roots = read_roots(store)
    sweep.result.unresolved.extend(
        root for root in roots if not root.dead and not os.path.lexists(root.folder)
    )
    with disk_errors("collecting garbage", store.root):
        sweep.roots(roots)
        for stage, key in sorted({*_pairs(store.root), *_pairs(store.root / ".staging")}):
            sweep.key(stage, key, roots)
        sweep.trash()
        sweep.run_folders(roots)
        if notes is not None:
            sweep.notes(notes)
        if not dry_run:
            sweep.lock_files()
    return sweep.result


class _Sweep:
    """One pass over the store."""

    def __init__(self, store: Store, result: Collection) -> None:
        self.store = store
        self.result = result

    def roots(self, roots: list[Root]) -> None:
        """Forget runs whose folder was deleted, and what killed writers of roots left."""
        folder = self.store.root / ".roots"
        if not folder.is_dir():
            return
        with contextlib.nullcontext() if self.result.dry_run else roots_lock(self.store):
            for root in roots:
                if root.dead:
                    self._remove(root.file, f"its run {root.folder} was deleted", _delete)
            for litter in sorted(folder.glob(f".*{TEMPORARY_SUFFIX}")):
                self._remove(litter, "left by a killed process", _delete)

    def key(self, stage: str, key: str, roots: list[Root]) -> None:
        """Remove the outputs and the staging of one key, unless they are in use."""
        if not list(self._garbage(stage, key, roots)):
            return
        try:
            with self._claimed(stage, key):
                now = read_roots(self.store)
                for path, reason in list(self._garbage(stage, key, now)):
                    self._remove(path, reason, self.store.throw_away)
        except Busy:
            self.result.in_use.append(self.store.folder(stage, key))

    @contextlib.contextmanager
    def _claimed(self, stage: str, key: str) -> Iterator[None]:
        """Hold the key's lock; on a dry run only look at it, since taking it writes its file."""
        lock = self.store.lock(stage, key, wait=False)
        if self.result.dry_run and is_held(lock.path):
            raise Busy(f"{stage} {key} is in use")
        with contextlib.nullcontext() if self.result.dry_run else lock:
            yield

    def _garbage(self, stage: str, key: str, roots: list[Root]) -> Iterator[tuple[Path, str]]:
        entry = self.store.folder(stage, key)
        staging = self.store.root / ".staging" / stage / key
        wanted = any((stage, key) in root.entries for root in roots if not root.dead)
        if entry.is_dir() and not wanted:
            yield entry, "no run uses it"
        if staging.is_dir() and not wanted:
            yield staging, "left by a try that did not finish; its checkpoints go with it"
        elif staging.is_dir() and self.store.inspect(stage, key).state is State.OK:
            yield staging, "left by a try; the stage has been finished since"

    def trash(self) -> None:
        """Remove what was on its way out when its remover was killed."""
        folder = self.store.root / ".trash"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            self._remove(path, "left by a killed process", self.store.burn)

    def run_folders(self, roots: list[Root]) -> None:
        """Remove what killed runs left half-written in their folders; the folders stay."""
        for root in roots:
            for path in _unfinished(root):
                self._remove(path, "left by a killed run", _delete)

    def notes(self, folder: Path) -> None:
        """Remove half-written notes of digests."""
        if not list(folder.glob(f".*{TEMPORARY_SUFFIX}")):
            return
        with contextlib.nullcontext() if self.result.dry_run else notes_lock(folder):
            for litter in sorted(folder.glob(f".*{TEMPORARY_SUFFIX}")):
                self._remove(litter, "left by a killed process", _delete)

    def lock_files(self) -> None:
        """Remove the lock files of keys that are gone.

        The stages' folders stay, also empty: a run may be about to make a key's folder in one.
        """
        for file in sorted((self.store.root / ".locks").glob("*-*.lock")):
            stage, _, key = file.stem.rpartition("-")
            with contextlib.suppress(Busy), self.store.lock(stage, key, wait=False) as lock:
                if not self._exists(stage, key):
                    lock.remove()

    def _exists(self, stage: str, key: str) -> bool:
        staging = self.store.root / ".staging" / stage / key
        return self.store.folder(stage, key).exists() or staging.exists()

    def _remove(self, path: Path, reason: str, remove: Callable[[Path], None]) -> None:
        size = size_of(path)
        if not self.result.dry_run:
            remove(path)
        self.result.removed.append(Garbage(path, reason, size))


def _unfinished(root: Root) -> list[Path]:
    """Half-written files of a run that is over; none of one that is out of sight or running."""
    with contextlib.suppress(OSError):
        if root.folder.is_dir() and not is_held(root.folder):
            return sorted(root.folder.rglob(f".*{TEMPORARY_SUFFIX}"))
    return []


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(size_of(child) for child in path.iterdir())
    except FileNotFoundError:
        return 0


def _pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """The (stage, key) folders below `folder`; hidden ones are the store's own."""
    if not folder.is_dir():
        return
    for stage in folder.iterdir():
        if stage.is_dir() and not stage.name.startswith("."):
            yield from ((stage.name, key.name) for key in stage.iterdir() if key.is_dir())


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
