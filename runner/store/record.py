"""`.stage.json`: what a finished stage says about itself, beside its outputs.

The record carries its own digest, so a damaged record is noticed like a damaged output. Beside each
file's digest stand its modification time and inode: while size, time and inode are the recorded
ones, reuse trusts the bytes without reading them.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.atomic import write_atomic
from runner.store.digest import canonical_sha256, file_sha256

FILE_NAME = ".stage.json"
SCHEMA = 1


class DamagedError(Exception):
    """What lies in the store is not what was put there; the text says what differs."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file looks like from outside, without reading it."""

    size: int  # bytes
    mtime_ns: int  # nanoseconds since the epoch
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of `path` itself, not of what a link points to."""
        found = path.lstat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class Record:
    """The content of `.stage.json`. `files` maps a relative path to its digest and its stamp."""

    stage: str
    key: str
    version: int
    key_inputs: Mapping[str, Any]
    files: Mapping[str, tuple[FileEntry, Stamp]]
    measures: Mapping[str, Any]
    seconds: float

    def outputs(self, folder: Path) -> Outputs:
        """The record as later stages see it; its files lie in `folder`."""
        entries = {path: entry for path, (entry, _) in self.files.items()}
        return Outputs(self.stage, self.key, folder, entries, self.measures)

    def write(self, folder: Path) -> None:
        """Write `.stage.json` into `folder`, atomically. Raises OSError."""
        data = self._as_data()
        data["sha256"] = canonical_sha256(data)
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
        write_atomic(folder / FILE_NAME, text + "\n")

    def _as_data(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "key": self.key,
            "version": self.version,
            "key_inputs": dict(self.key_inputs),
            "files": {
                path: {
                    "size": entry.size,
                    "sha256": entry.sha256,
                    "class": entry.cls.value,
                    "mtime_ns": stamp.mtime_ns,
                    "inode": stamp.inode,
                }
                for path, (entry, stamp) in self.files.items()
            },
            "measures": dict(self.measures),
            "seconds": self.seconds,
        }


def read_record(folder: Path) -> Record:
    """The record in `folder`. Raises FileNotFoundError or DamagedError."""
    text = (folder / FILE_NAME).read_bytes()
    try:
        data = json.loads(text)
        if data.pop("sha256") != canonical_sha256(data):
            raise DamagedError(f"{FILE_NAME} does not match its own digest")
        if data["schema"] != SCHEMA:
            raise DamagedError(f"{FILE_NAME} has the unknown schema {data['schema']}")
        files = {path: _file(path, facts) for path, facts in data["files"].items()}
        return Record(
            stage=data["stage"],
            key=data["key"],
            version=data["version"],
            key_inputs=data["key_inputs"],
            files=files,
            measures=data["measures"],
            seconds=data["seconds"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{FILE_NAME} cannot be read: {error}") from None


def _file(path: str, facts: Mapping[str, Any]) -> tuple[FileEntry, Stamp]:
    entry = FileEntry(path, facts["size"], facts["sha256"], Class(facts["class"]))
    return entry, Stamp(facts["size"], facts["mtime_ns"], facts["inode"])


def check_files(folder: Path, record: Record, *, trust_stamps: bool = True) -> bool:
    """Compare `folder` with its record; raise DamagedError at the first difference. Reads only.

    A file is read only when its time or inode is not the recorded one, or always without
    `trust_stamps`. Returns whether any was:
    such an entry is intact, but costs reading on every look until it is stamped again.
    """
    present = set(_relative_files(folder)) - {FILE_NAME}
    if missing := sorted(set(record.files) - present):
        raise DamagedError(f"{missing[0]} is gone")
    if foreign := sorted(present - set(record.files)):
        raise DamagedError(f"{foreign[0]} was not put there by the stage")
    read = [
        _check_file(folder / path, *known, trust=trust_stamps)
        for path, known in record.files.items()
    ]
    return any(read)


def _check_file(path: Path, entry: FileEntry, stamp: Stamp, *, trust: bool) -> bool:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise DamagedError(f"{entry.path} is no longer a regular file")
    if found.st_size != entry.size:
        raise DamagedError(f"{entry.path} has {found.st_size} bytes instead of {entry.size}")
    stamped = Stamp(found.st_size, found.st_mtime_ns, found.st_ino) == stamp
    if stamped and trust:
        return False
    if (digest := file_sha256(path)) != entry.sha256:
        raise DamagedError(
            f"{entry.path} has sha256 {digest[:12]}… instead of {entry.sha256[:12]}…"
        )
    return not stamped


def _relative_files(folder: Path, prefix: str = "") -> Iterator[str]:
    """Paths of everything below `folder` that is not a folder, with forward slashes."""
    with os.scandir(folder) as children:
        for child in children:
            name = prefix + child.name
            if child.is_dir(follow_symlinks=False):
                yield from _relative_files(Path(child.path), name + "/")
            else:
                yield name
