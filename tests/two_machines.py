"""Two network namespaces with a wire between them: a server's, and another machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SERVER, OTHER = "10.98.76.1", "10.98.76.2"
_WAIT = "echo ready; exec sleep infinity"


@dataclass(frozen=True)
class TwoMachines:
    """How to run programs in the namespaces of these processes."""

    server: int
    other: int

    def on_server(self, *argv: str) -> list[str]:
        """The command that runs `argv` on the server."""
        return [*_enter(self.server), *argv]

    def on_other(self, *argv: str) -> list[str]:
        """The command that runs `argv` on the other machine."""
        return [*_enter(self.other), *argv]


@contextmanager
def two_machines() -> Iterator[TwoMachines]:
    """As root, or as a user who may make namespaces of their own."""
    unprivileged = [] if os.geteuid() == 0 else ["--map-root-user"]
    with (
        _sleeper(["unshare", *unprivileged, "--net"]) as server,
        _sleeper([*_enter(server), "unshare", "--net"]) as other,
    ):
        machines = TwoMachines(server, other)
        wire = ["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(other)]
        _ip(machines.on_server, *wire)
        for run, address in ((machines.on_server, SERVER), (machines.on_other, OTHER)):
            _ip(run, "address", "add", f"{address}/24", "dev", "wire")
            _ip(run, "link", "set", "wire", "up")
            _ip(run, "link", "set", "lo", "up")
        yield machines


def ask_from(command: list[str]) -> str:
    """What a Python program says, run to its end by a command of `TwoMachines`."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def python(program: str, *arguments: str) -> list[str]:
    """`python -c PROGRAM`."""
    return [sys.executable, "-c", program, *arguments]


def _ip(run: object, *arguments: str) -> None:
    assert callable(run)
    subprocess.run(run("ip", *arguments), check=True, timeout=30)


def _enter(pid: int) -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", "--target", str(pid), *user, "--net"]


@contextmanager
def _sleeper(inside: list[str]) -> Iterator[int]:
    """Process id of one that does nothing in a namespace of its own."""
    with subprocess.Popen([*inside, "sh", "-c", _WAIT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()
