"""Digests of large input files, remembered: planning must not read 140 GB to say "up to date".

A remembered digest holds while size, modification time, change time and inode are what they were.
The change time is the kernel's own, so a file edited and given its old modification time is still
read again.

Looking up writes nothing, since planning does not: `keep` writes down what this process has read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from runner.errors import MachineCannot
from runner.store.atomic import write_atomic
from runner.store.digest import file_sha256
from runner.store.locks import Lock
from runner.system.folders import cache_folder

# nanoseconds since the last change: clocks of files tick so coarsely that an edit right after the
# reading could leave no trace
SETTLED = 2_000_000_000
_read: dict[Path, str] = {}  # note -> its text, of files that this process has read
WORTH = 32 << 20  # bytes: smaller files are read in the time that remembering takes


def known_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, from memory where the file has not changed since.

    Raises OSError as reading would.
    """
    before = _stamp(path)
    if before[0] < WORTH:
        return file_sha256(path)
    note = _note(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["stamp"] == before:
            return str(known["sha256"])
    digest = file_sha256(path)
    if _stamp(path) == before and time.time_ns() - before[2] > SETTLED:
        _read[note] = json.dumps({"stamp": before, "sha256": digest}) + "\n"
    return digest


def keep() -> None:
    """Remember what was read; where it cannot be written, the next process reads it again."""
    with contextlib.suppress(OSError, MachineCannot):
        if _read:
            with notes_lock(notes_folder()):
                notes_folder().mkdir(exist_ok=True)
                for note, text in _read.items():
                    with contextlib.suppress(OSError):  # of one, and the others are written
                        write_atomic(note, text)
    _read.clear()


def notes_lock(folder: Path) -> Lock:
    """Held while notes are written, so that `recipe gc` knows which half-written ones stay so."""
    return Lock(folder.parent / "locks" / "digests.lock", "the remembered digests")


def notes_folder() -> Path:
    """Where the notes lie; may not exist."""
    return cache_folder() / "digests"


def forget() -> None:
    """Read every file again from now on."""
    folder = notes_folder()
    for note in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            note.unlink()


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _note(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return notes_folder() / f"{name}.json"
