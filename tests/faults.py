"""Fail, or die, at the Nth file operation: for N = 1, 2, ... until none is left to fail.

The operations are Python's own doors to the file system, in a forked process, so a kill is a real
one. What a full disk does to a write is tried beside it: the first half is written, then it fails.
"""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

OPERATIONS = (
    *("open", "write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "chmod"),
    *("link", "ftruncate", "pwrite", "scandir", "listdir"),
)
MODES = ("kill", "full-disk", "io-error")
_COUNT_LIMIT = 500  # a scenario this long is a mistake in the test


@dataclass(frozen=True)
class Fault:
    """What happened in one round: `survived` when the scenario ended without an exception."""

    mode: str
    number: int
    survived: bool
    injected: bool
    said: str


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
    names: dict[int, str] = {}

    def note(name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = call(*args, **options)
        path = names.get(args[0], "") if isinstance(args[0], int) else os.fspath(args[0])
        if name == "open":
            names[result] = path
        log.append((name, path))
        return result

    originals = {name: getattr(os, name) for name in OPERATIONS}
    try:
        for name, call in originals.items():
            setattr(os, name, lambda *a, _n=name, _c=call, **k: note(_n, _c, *a, **k))
        scenario()
    finally:
        for name, call in originals.items():
            setattr(os, name, call)
    return log


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
    counter = _Counter(mode, number)
    write = os.write
    code = 1
    try:
        counter.install()
        scenario()
        code = 2 if counter.injected else 0
    except BaseException:
        write(writer, traceback.format_exc().encode())
    finally:
        os._exit(code)


class _Counter:
    def __init__(self, mode: str, number: int) -> None:
        self.mode = mode
        self.left = number
        self.injected = False

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left != 0:
                return call(*args, **options)
            self.injected = True
            if name == "write":  # half of it got through
                call(args[0], args[1][: len(args[1]) // 2])
            if self.mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            number = errno.ENOSPC if self.mode == "full-disk" else errno.EIO
            raise OSError(number, os.strerror(number))

        return wrapped
