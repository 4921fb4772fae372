"""Every request and the answer to it, in a file beside the output that only grows.

One JSON object a line: `request` is the sha256 of what was `asked`, `answer` is what the
server said, `sha256` that of it. A line is on the disk before its answer is used, so a run that was
killed has lost none that it had received; half a line at the end (a kill, a full disk) is cut off.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import RecipeToolError
from runner.store.atomic import disk_errors, disk_failure, fsync_folder, make_folders
from runner.store.digest import canonical_sha256

SUFFIX = ".requests.jsonl"
_START = b'{"request": "'
ROOM = 1 << 20  # bytes that must be free before anything is asked: an answer paid for is kept


def log_path(out: Path) -> Path:
    """Where the log of an output lies."""
    return out.with_name(out.name.removesuffix(".jsonl") + SUFFIX)


def request_digest(asked: Mapping[str, Any]) -> str:
    """Sha256 (hex) of a request: of whom, and what."""
    return canonical_sha256(asked)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an answer stands in the file."""

    offset: int
    length: int


class Log:
    """The log at `path`, opened for one process; `read_only` makes and changes no file.

    A block that ends with an error before anything was answered leaves no file and no folder that
    it made. Raises RecipeToolError (E907) for a file that holds something else, or was changed.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path, self._read_only = path, read_only
        self._entries: dict[str, Entry] = {}
        self._mutex = threading.Lock()
        self._descriptor = -1
        self._end = 0
        self._made: list[Path] = []  # the file and folders above it that were not there, from below

    def __enter__(self) -> Self:
        if self._read_only and not self.path.exists():
            return self
        with disk_errors(f"opening {self.path}", self.path):
            if self._read_only:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            else:
                self._make()
            self._read()
        return self

    def _make(self) -> None:
        """Open the file, made where it is not there. Raises OSError."""
        above = [self.path, *self.path.absolute().parents]
        self._made = list(itertools.takewhile(lambda each: not os.path.lexists(each), above))
        try:
            make_folders(self.path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
            fsync_folder(self.path.parent)
        except OSError:
            self._unmake()
            raise

    def _unmake(self) -> None:
        """Remove what was made, but for folders that hold something by now."""
        with contextlib.suppress(OSError):
            for each in self._made:
                if each == self.path:
                    each.unlink(missing_ok=True)
                elif each.exists():
                    each.rmdir()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._mutex:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1
            if error is not None and not self._end:
                self._unmake()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, digest: str) -> bool:
        return digest in self._entries

    def answers(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Everything that was asked, and what was answered, in the order of the file."""
        for entry in list(self._entries.values()):
            line = self._line(entry)
            yield line["asked"], line["answer"]

    def answer(self, digest: str) -> str:
        """What was answered. Raises KeyError."""
        return str(self._line(self._entries[digest])["answer"])

    def check_room(self) -> None:
        """Raises MachineCannot (E410) where an answer might not find room on the disk."""
        room = os.statvfs(self.path.parent)
        if room.f_bavail * room.f_frsize < ROOM:
            full = OSError(errno.ENOSPC, "", str(self.path))
            failure = disk_failure(full, "looking for room for an answer, which was not asked for")
            assert failure is not None
            raise failure

    def add(self, asked: Mapping[str, Any], answer: str) -> None:
        """Append, and wait until it is on the disk. Raises MachineCannot when the disk is full."""
        digest = request_digest(asked)
        line = {"request": digest, "asked": asked, "answer": answer, "sha256": _sha256(answer)}
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        with self._mutex, disk_errors(f"writing {self.path}", self.path):
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(self._descriptor, data[written:], self._end + written)
                os.fsync(self._descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                raise
            self._entries.setdefault(digest, Entry(self._end, len(data)))
            self._end += len(data)

    def _line(self, entry: Entry) -> dict[str, Any]:
        data = os.pread(self._descriptor, entry.length, entry.offset)
        line: dict[str, Any] = json.loads(data)
        return line

    def _read(self) -> None:
        """Note where each answer stands, and cut off half a line at the end."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n") and _is_torn(data):
                    break
                self._entries.setdefault(self._checked(data, number), Entry(self._end, len(data)))
                self._end += len(data)
        if not self._read_only and os.fstat(self._descriptor).st_size > self._end:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)

    def _checked(self, data: bytes, number: int) -> str:
        try:
            line = json.loads(data)
            digest = str(line["request"])
            sound = digest == request_digest(line["asked"])
            sound = sound and line["sha256"] == _sha256(line["answer"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if sound:
            return digest
        raise RecipeToolError(
            f"{self.path}:{number}: this is no request with its answer, or it was changed since",
            hint="remove the line to have it asked again, or restore the file",
            code="E907",
        )


def _is_torn(data: bytes) -> bool:
    """The beginning of a line of ours, or what a power loss leaves; else it is a stranger's."""
    return data.startswith(_START[: len(data)]) or not data.strip(b"\0")


def _sha256(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
