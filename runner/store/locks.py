"""Locks between processes, by flock: the kernel releases them when the last holder dies.

A lock belongs to the open file, not to the process: a child that inherits `Lock.fd` holds it too,
and it is free when the last of them has closed it or died. So a lock is released by closing, never
by LOCK_UN, which would take it from the children as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.errors import Busy
from runner.store.atomic import disk_errors, make_folders

LOOK_SECONDS = 1.0  # how often who waits looks who holds the lock by now


@dataclass(frozen=True, slots=True)
class Holder:
    """Who wrote its name into a lock file. Empty when the file does not say.

    `token`: what it signed with, where others are to tell that it was this one; see Lock.
    """

    pid: int = 0
    host: str = ""
    command: str = ""
    token: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        elsewhere = f" on {self.host}" if self.host != socket.gethostname() else ""
        return f"process {self.pid}{elsewhere} ({self.command})"


class Lock:
    """An exclusive lock on `path` for a `with` block.

    `purpose` completes the sentence "... is in use by process 12 (recipe run x.yaml)". When the
    lock is taken, the process waits, and `on_wait` is called with every holder, from a thread of
    its own for those after the first; with `wait=False` it raises Busy instead. Raises
    MachineCannot where the file cannot be made. `token` stands in the file while the lock is held:
    also from another machine, or another container, where a process number says nothing, its owner
    can be told by it.
    """

    def __init__(
        self,
        path: Path,
        purpose: str,
        *,
        wait: bool = True,
        on_wait: Callable[[Holder], None] | None = None,
    ) -> None:
        self.path = path
        self.purpose = purpose
        self._wait = wait
        self._on_wait = on_wait
        self._told: Holder | None = None
        self._fd: int | None = None
        self.token = ""

    @property
    def fd(self) -> int:
        """The open lock file; a child that inherits it holds the lock with us."""
        assert self._fd is not None, "the lock is not held"
        return self._fd

    def __enter__(self) -> Self:
        with disk_errors(f"locking {self.purpose}", self.path):
            make_folders(self.path.parent)
            while not self._take():
                pass
        self._sign()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        descriptor, self._fd = self.fd, None
        os.close(descriptor)

    def remove(self) -> None:
        """Delete the lock file while holding it. Whoever waits for it will make a new one."""
        assert self._fd is not None, "only the holder may delete a lock file"
        self.path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Lock the file; False when it was deleted meanwhile and must be opened again."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._flock(descriptor)
            if _is_file(self.path, descriptor):
                self._fd = descriptor
                return True
        finally:
            if self._fd is None:
                os.close(descriptor)
        return False

    def _flock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_holder(self.path)
            if not self._wait:
                raise Busy(
                    f"{self.purpose} is in use by {holder}",
                    hint="wait until it has ended, or stop it, then run the same command again",
                ) from None
            with self._telling(holder):
                fcntl.flock(descriptor, fcntl.LOCK_EX)

    @contextlib.contextmanager
    def _telling(self, holder: Holder) -> Iterator[None]:
        """Tell `on_wait` of `holder`, and of whoever takes its place while the block runs.

        Only who waits within flock stands in the line, so another thread has to look.
        """
        if self._on_wait is None:
            yield
            return
        tell, over = self._on_wait, threading.Event()

        def look() -> None:
            told = holder
            while not over.wait(LOOK_SECONDS):
                if (found := read_holder(self.path)) not in (told, Holder()):
                    told = found
                    with contextlib.suppress(OSError):  # a full disk ends no wait
                        tell(found)

        if holder != self._told:
            tell(holder)
        self._told = holder
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _sign(self) -> None:
        """Write who holds it; only for the others' messages, so a full disk does not matter."""
        signature = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            **({"token": self.token} if self.token else {}),
        }
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, json.dumps(signature).encode(), 0)


def read_holder(path: Path) -> Holder:
    """Who last took the lock `path`; an empty Holder when that cannot be read."""
    try:
        signature = json.loads(path.read_bytes())
        named = int(signature["pid"]), str(signature["host"]), str(signature["command"])
        return Holder(*named, str(signature.get("token", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()


def is_held(path: Path) -> bool:
    """Does anybody hold the lock right now? Creates and writes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _is_file(path: Path, descriptor: int) -> bool:
    """Is the open file still the one that `path` names?"""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
