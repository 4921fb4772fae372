"""The store: `STORE/<stage>/<key>/` holds the outputs of a finished stage, read-only.

    STORE/<stage>/<key>/             outputs and .stage.json; complete or absent, never half
    STORE/.staging/<stage>/<key>/    out/ is being written; scratch/ outlives a failed try
    STORE/.locks/                    one lock a key
    STORE/.roots/                    which runs use which outputs (roots.py)
    STORE/.trash/                    on the way out

How a stage is executed, all of it under `store.lock(stage, key)`:

    outputs = store.reuse(stage, key)
    if outputs is None:
        staging = store.staging(stage, key)     # write into staging.out
        outputs = store.commit(staging, ...)
    register_root(store, run_folder, ...)       # before the lock is released: see roots.py
"""

from __future__ import annotations

import contextlib
import enum
import fnmatch
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import MachineCannot, StageFailed
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.atomic import disk_errors, fsync_folder, fsync_tree
from runner.store.digest import file_sha256
from runner.store.locks import Holder, Lock
from runner.store.record import FILE_NAME, DamagedError, Record, Stamp, check_files, read_record


class State(enum.StrEnum):
    """What lies in the store under a key."""

    OK = "ok"
    MISSING = "missing"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"  # the disk fails, or they are not ours to read: perhaps intact


@dataclass(frozen=True, slots=True)
class Inspection:
    """`outputs` is there when the state is ok; `detail` says in words why it is not.

    `stamped` is False when files had to be read to know that they are intact; `Store.reuse` makes
    the next look cheap again.
    """

    state: State
    detail: str = ""
    outputs: Outputs | None = None
    record: Record | None = None
    stamped: bool = True


@dataclass(frozen=True, slots=True)
class Staging:
    """Where a stage works. `out` was empty at the start; `scratch` keeps what the last try left."""

    stage: str
    key: str
    out: Path
    scratch: Path


class Store:
    """The store below `root`. Nothing is created before something is written.

    `paranoid`: hash stored files on every look, instead of trusting size, time and inode.
    """

    def __init__(self, root: Path, *, paranoid: bool = False) -> None:
        self.root = root
        self.paranoid = paranoid

    def folder(self, stage: str, key: str) -> Path:
        """Where the outputs of `stage` under `key` lie or would lie."""
        return self.root / stage / key

    def scratch_folder(self, stage: str, key: str) -> Path:
        """Where a try of the stage keeps its checkpoints; may not exist."""
        return self._staging_folder(stage, key) / "scratch"

    def lock(
        self,
        stage: str,
        key: str,
        *,
        wait: bool = True,
        on_wait: Callable[[Holder], None] | None = None,
    ) -> Lock:
        """The lock on one key, to be held from the look-up to the registration of the result."""
        path = self.root / ".locks" / f"{stage}-{key}.lock"
        return Lock(path, f"stage {stage}", wait=wait, on_wait=on_wait)

    def inspect(self, stage: str, key: str) -> Inspection:
        """What lies under the key, checked against its record. Reads only; never raises for it."""
        folder = self.folder(stage, key)
        try:
            record = read_record(folder)
            if (record.stage, record.key) != (stage, key):
                raise DamagedError(f"{FILE_NAME} belongs to {record.stage} {record.key[:12]}")
            reread = check_files(folder, record, trust_stamps=not self.paranoid)
        except FileNotFoundError:
            detail = "its .stage.json is gone" if folder.is_dir() else ""
            return Inspection(State.DAMAGED if detail else State.MISSING, detail)
        except DamagedError as damage:
            return Inspection(State.DAMAGED, str(damage))
        except OSError as error:
            return Inspection(State.UNREADABLE, f"cannot be read: {error.strerror}")
        return Inspection(State.OK, "", record.outputs(folder), record, stamped=not reread)

    def lookup(self, stage: str, key: str) -> Outputs | None:
        """The outputs under the key, or None when they are missing or damaged. Reads only."""
        return self.inspect(stage, key).outputs

    def reuse(self, stage: str, key: str) -> Outputs | None:
        """What need not be computed: intact outputs, or a commit killed at the last moment.

        The caller holds the key's lock. None when the stage must run. Raises MachineCannot when
        nobody can tell: hours of training are not thrown away because the disk failed once.
        """
        found = self.inspect(stage, key)
        if found.state is State.UNREADABLE:
            raise MachineCannot(
                f"the stored outputs of stage {stage} {found.detail}: {self.folder(stage, key)}",
                hint="run the same command again when they can be read; to compute them anew, "
                "delete that folder",
                code="E861",
            )
        if found.record is None:
            return self._recover(stage, key)
        if not found.stamped:
            self._restamp(found.record)
        return found.outputs

    def _restamp(self, record: Record) -> None:
        """Note the files' present times and inodes, after a copy or a restore of the store.

        The record is written outside of the entry: what a kill leaves inside would damage it.
        """
        folder = self.folder(record.stage, record.key)
        base = self._staging_folder(record.stage, record.key)
        files = {
            path: (entry, Stamp.of(folder / path)) for path, (entry, _) in record.files.items()
        }
        with contextlib.suppress(OSError):  # a read-only store is read again next time
            base.mkdir(parents=True, exist_ok=True)
            replace(record, files=files).write(base)
            (base / FILE_NAME).replace(folder / FILE_NAME)
            fsync_folder(folder)
        shutil.rmtree(base, ignore_errors=True)

    def staging(self, stage: str, key: str) -> Staging:
        """An empty `out` and the kept `scratch`. The caller holds the key's lock."""
        place = self.staging_place(stage, key)
        with disk_errors(f"preparing stage {stage}", self.root):
            if place.out.exists():
                shutil.rmtree(place.out)
            place.out.mkdir(parents=True)
            place.scratch.mkdir(exist_ok=True)
        return place

    def staging_place(self, stage: str, key: str) -> Staging:
        """Where `staging` is made. Nothing is looked at, and no lock is needed."""
        folder = self._staging_folder(stage, key)
        return Staging(stage, key, folder / "out", folder / "scratch")

    def discard(self, staging: Staging, *, keep_scratch: bool) -> None:
        """Remove what a failed try wrote, but for the scratch that the next one goes on from."""
        place = staging.out if keep_scratch else staging.out.parent
        shutil.rmtree(place, ignore_errors=True)

    def commit(
        self,
        staging: Staging,
        *,
        version: int,
        key_inputs: Mapping[str, Any],
        classes: Mapping[str, Class],
        key: str | None = None,
        measures: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> Outputs:
        """Hash what lies in `staging.out`, make it durable and read-only, and move it in place.

        `classes` is the stage's OUTPUTS: the first pattern that matches a file gives its class.
        `key`: another one than the staging's. `key_inputs` is kept to explain it, `seconds` is how
        long the stage took. Raises StageFailed when a file was not declared, a declared name is
        absent, or something is not a regular file with one name; MachineCannot on a full or
        read-only disk. In both cases the store is as before.
        """
        with disk_errors(f"storing the outputs of stage {staging.stage}", self.root):
            files = {
                path: _seal(staging, path, cls) for path, cls in _declared(staging, classes).items()
            }
            record = Record(
                stage=staging.stage,
                key=key or staging.key,
                version=version,
                key_inputs=key_inputs,
                files=files,
                measures=measures or {},
                seconds=seconds,
            )
            fsync_tree(staging.out)
            record.write(staging.out)
            return self._move_in(record, staging.out.parent)

    def _recover(self, stage: str, key: str) -> Outputs | None:
        """Finish a commit that was killed between sealing its files and moving them in place."""
        out = self._staging_folder(stage, key) / "out"
        try:
            record = read_record(out)
            check_files(out, record)
        except (OSError, DamagedError):
            return None
        if (record.stage, record.key) != (stage, key):
            return None
        with disk_errors(f"storing the outputs of stage {stage}", self.root):
            return self._move_in(record, out.parent)

    def _move_in(self, record: Record, base: Path) -> Outputs:
        """Rename the sealed `base/out` to its place; what lay there goes to the trash first."""
        target = self.folder(record.stage, record.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self.throw_away(target)
        (base / "out").rename(target)
        fsync_folder(target.parent)
        fsync_folder(self.root)
        shutil.rmtree(base, ignore_errors=True)
        return record.outputs(target)

    def throw_away(self, folder: Path) -> None:
        """Remove a folder of the store so that no reader ever sees half of it."""
        trash = self.root / ".trash"
        trash.mkdir(parents=True, exist_ok=True)
        doomed = trash / f"{folder.parent.name}-{folder.name[:16]}-{secrets.token_hex(4)}"
        folder.rename(doomed)
        self.burn(doomed)

    def burn(self, doomed: Path) -> None:
        """Delete a folder of the trash; another process may be at it too."""
        shutil.rmtree(doomed, ignore_errors=True)

    def _staging_folder(self, stage: str, key: str) -> Path:
        return self.root / ".staging" / stage / key


def _declared(staging: Staging, classes: Mapping[str, Class]) -> dict[str, Class]:
    """The class of every file in `staging.out`, in order of path. Raises StageFailed."""
    found: dict[str, Class] = {}
    for path in sorted(_regular_files(staging.out, staging.stage)):
        pattern = next((name for name in classes if fnmatch.fnmatchcase(path, name)), None)
        if pattern is None:
            raise StageFailed(
                f"stage {staging.stage} wrote {path}, which it does not declare",
                hint="this is a bug in the stage: add the file to its OUTPUTS",
                code="E510",
                stage=staging.stage,
            )
        found[path] = classes[pattern]
    for pattern in classes:
        if not any(mark in pattern for mark in "*?[") and pattern not in found:
            raise StageFailed(
                f"stage {staging.stage} ended without writing {pattern}",
                hint="its log says more",
                code="E511",
                stage=staging.stage,
            )
    return found


def _regular_files(folder: Path, stage: str, prefix: str = "") -> Iterator[str]:
    """Relative paths of the files below `folder`; refuses links, devices, sockets, pipes."""
    with os.scandir(folder) as children:
        for child in children:
            name = prefix + child.name
            found = child.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                yield from _regular_files(Path(child.path), stage, name + "/")
            elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                yield name
            else:
                kind = "hard" if stat.S_ISREG(found.st_mode) else "symbolic"
                what = f"a {kind} link" if stat.S_ISLNK(found.st_mode) or kind == "hard" else None
                raise StageFailed(
                    f"stage {stage} wrote {name}, which is {what or 'not a regular file'}: its "
                    "bytes could change behind the store's back",
                    hint="this is a bug in the stage: it must write copies",
                    code="E512",
                    stage=stage,
                )


def _seal(staging: Staging, path: str, cls: Class) -> tuple[FileEntry, Stamp]:
    """Hash one output and make it read-only."""
    file = staging.out / path
    before = Stamp.of(file)
    digest = file_sha256(file)
    file.chmod(0o444)
    if Stamp.of(file) != before:
        raise StageFailed(
            f"stage {staging.stage} was still writing {path} when it had ended",
            hint="this is a bug in the stage: a process of it lives on",
            code="E513",
            stage=staging.stage,
        )
    return FileEntry(path, before.size, digest, cls), before
