"""Go on in the background: a process of its own session, whose output is a file of its run.

It begins when everything has been checked and planned, so that what is wrong is said at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import UsageError
from runner.execution.checksums import OWN_LOG
from runner.execution.run_folder import RunFolder

LOG = Path(OWN_LOG).name  # in the run's logs/


@dataclass(frozen=True)
class Parent:
    """Who stays at the terminal."""

    child: int
    reader: int

    def wait(self) -> Path | int:
        """The run's folder, once there is one; else the exit code of the child, which said why."""
        with os.fdopen(self.reader, "rb") as told:
            folder = told.read().decode()
        if folder:
            return Path(folder)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


@dataclass
class Child:
    """Who goes on."""

    writer: int
    told: bool = False  # has the parent been?

    def announce(self, run: RunFolder) -> None:
        """Write into the run's log from now on, and tell the parent where the first run is."""
        log = os.open(run.logs / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        if self.told:
            return
        self.told = True
        os.write(self.writer, str(run.path).encode())
        os.close(self.writer)


def split(command: Sequence[str]) -> Parent | Child:
    """Two processes from here on. `command`: the words that a container is given in its place.

    Raises UsageError (E932) in a container, which ends with its first process.
    """
    if os.environ.get("SPARK_RECIPES_IMAGE") or os.getpid() == 1:
        raise UsageError(
            "a container ends with the command that it was started for, and a run in its "
            "background with it",
            hint=f"docker compose run -d {shlex.join(command)}",
            code="E932",
        )
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writer)
        return Parent(child, reader)
    os.close(reader)
    os.setsid()  # a terminal that is closed ends its own session only
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` has it ignored
    return Child(writer)
