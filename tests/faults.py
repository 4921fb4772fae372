"""Fail, or die, at the Nth file operation: for N = 1, 2, ... until none is left to fail.

The operations are Python's own doors to the file system, in a forked process, so a kill is a real
one. What a full disk does to a write is tried beside it: the first half is written, then it fails,
and from then on nothing that needs room succeeds.
"""

from __future__ import annotations

import _pyio
import builtins
import errno
import io
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGING = (
    *("write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "chmod"),
    *("link", "symlink", "ftruncate", "pwrite"),
)
READING = ("read", "scandir", "listdir")
OPERATIONS = ("open", *CHANGING, "scandir", "listdir")
MODES = ("kill", "full-disk", "io-error")
_GROWING = ("write", "pwrite", "mkdir", "link", "symlink")  # and an open that creates
_TWO_PATHS = ("replace", "rename", "link", "symlink")  # they are told by where they lead
_COUNT_LIMIT = 500  # a scenario this long is a mistake in the test


@dataclass(frozen=True)
class Fault:
    """What happened in one round: `survived` when the scenario ended without an exception."""

    mode: str
    number: int
    survived: bool
    injected: bool
    said: str


@dataclass(frozen=True)
class Operation:
    """One call at a door. Paths are absolute: of a file descriptor, what it was opened as.

    `source` is another path than `path` where there are two of them.
    """

    name: str
    source: str
    path: str
    changes: bool
    grows: bool


def faults(scenario: Callable[[], None], prepare: Callable[[], None], mode: str) -> Iterator[Fault]:
    """Prepare and run the scenario with one fault, again and again; yields after each round."""
    for number in range(1, _COUNT_LIMIT):
        prepare()
        fault = _round(scenario, mode, number)
        yield fault
        if not fault.injected:
            return
    raise AssertionError("the scenario never ran out of operations")


def recorded(scenario: Callable[[], None]) -> list[tuple[str, str]]:
    """The operations of the scenario in their order, each with the path it touched."""
    log: list[tuple[str, str]] = []

    def note(operation: Operation, call: Callable[[], Any], half: Callable[[], Any]) -> Any:
        log.append((operation.name, operation.source))
        return call()

    originals = {name: getattr(os, name) for name in OPERATIONS}
    try:
        open_doors(note, OPERATIONS)
        scenario()
    finally:
        for name, call in originals.items():
            setattr(os, name, call)
    return log


Handler = Callable[[Operation, Callable[[], Any], Callable[[], Any]], Any]


def open_doors(handle: Handler, names: tuple[str, ...]) -> None:
    """Hand every operation of these names to `handle`, with two calls: whole, and half done."""
    for name in names:
        setattr(os, name, _door(name, getattr(os, name), handle))


def open_files_by_doors() -> None:
    """Let Python's files go through the doors too, by its own file objects in Python."""
    builtins.open = io.open = _pyio.open


def _door(name: str, call: Callable[..., Any], handle: Handler) -> Callable[..., Any]:
    def door(*args: Any, **options: Any) -> Any:
        def half() -> None:
            if name == "write":
                call(args[0], args[1][: len(args[1]) // 2])

        return handle(_operation(name, args, options), lambda: call(*args, **options), half)

    return door


def _operation(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Operation:
    creates = name == "open" and bool(args[1] & os.O_CREAT)
    given = args[0] if args else "."
    return Operation(
        name,
        _path(given, options.get("dir_fd")),
        _path(args[1] if name in _TWO_PATHS else given, options.get("dir_fd")),
        changes=creates or name in CHANGING,
        grows=creates or name in _GROWING,
    )


def _path(given: Any, folder: int | None) -> str:
    if isinstance(given, int):
        return _opened(given)
    base = str(Path.cwd()) if folder is None else _opened(folder)
    return str(Path(base, os.fsdecode(given)))


def _opened(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no door behind a door
    except OSError:
        return ""


def _round(scenario: Callable[[], None], mode: str, number: int) -> Fault:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(scenario, mode, number, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    # Exit codes of _child: 0 no fault was due, 1 an exception came out, 2 the fault was survived.
    assert code in (0, 1, 2, -signal.SIGKILL), said
    return Fault(mode, number, survived=code in (0, 2), injected=code != 0, said=said)


def _child(scenario: Callable[[], None], mode: str, number: int, writer: int) -> None:
    left = number

    def due(operation: Operation) -> bool:
        nonlocal left
        left -= 1
        return left == 0

    injector = Injector(mode, due)
    write = os.write
    code = 1
    try:
        open_doors(injector.handle, OPERATIONS)
        scenario()
        code = 2 if injector.injected else 0
    except BaseException:
        write(writer, traceback.format_exc().encode())
    finally:
        os._exit(code)


class Injector:
    """Does the damage of `mode` at the operation for which `due` says so, and once only.

    `on_fault` is told of it before. A full disk stays full.
    """

    def __init__(
        self,
        mode: str,
        due: Callable[[Operation], bool],
        on_fault: Callable[[Operation], None] = lambda operation: None,
    ) -> None:
        self.mode = mode
        self.injected = False
        self._due = due
        self._on_fault = on_fault

    def handle(self, operation: Operation, call: Callable[[], Any], half: Callable[[], Any]) -> Any:
        """What a door does."""
        if self.injected:
            if self.mode == "full-disk" and operation.grows:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)
            return call()
        if not self._due(operation):
            return call()
        self.injected = True
        self._on_fault(operation)
        half()
        if self.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.ENOSPC if self.mode == "full-disk" else errno.EIO
        raise OSError(number, os.strerror(number), operation.path)
