"""Time whole commands side by side: interleaved, so that a noisy machine is noisy for both."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Starts a command, and writes its status, seconds and KiB. A process's peak survives exec, so it
# begins at the size of whoever starts it: this one is small, and a benchmark with numpy is not.
_WATCH = """
import os, sys, time
end, argv = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(end, False)
started = time.perf_counter()
pid = os.posix_spawnp(argv[0], argv, os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - started
os.write(end, f"{os.waitstatus_to_exitcode(status)} {seconds} {usage.ru_maxrss}".encode())
"""


@dataclass(frozen=True)
class Command:
    """One contender: a name for the table and what to run."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds and peak memory (bytes, of the largest process) of every run."""

    name: str
    seconds: list[float]
    memory: list[int]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> int:
        return max(self.memory)


def time_side_by_side(commands: Sequence[Command], runs: int) -> list[Timing]:
    """Run every command once to warm up, then `runs` times in turn. Raises when one fails."""
    timings = [Timing(command.name, [], []) for command in commands]
    for number in range(runs + 1):
        for command, timing in zip(commands, timings, strict=True):
            seconds, memory = _run(command)
            if number > 0:
                timing.seconds.append(seconds)
                timing.memory.append(memory)
    return timings


def _run(command: Command) -> tuple[float, int]:
    """Seconds and peak memory. What has failed is told with the last of its words."""
    report, end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, str(end), *command.argv],
        cwd=command.folder,
        env=dict(os.environ) | dict(command.env or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[end],
    )
    os.close(end)
    _, words = process.communicate()
    with os.fdopen(report, encoding="utf-8") as pipe:
        measured = pipe.read().split()
    if not measured or int(measured[0]) != 0:
        raise RuntimeError(f"{command.name} failed: {words.decode(errors='replace')[-2000:]}")
    return float(measured[1]), int(measured[2]) * 1024


def table(timings: Sequence[Timing]) -> str:
    """A Markdown table; ratios are to the last row, the peer."""
    peer = timings[-1]
    lines = [
        "| command | min s | median s | max s | x peer | peak MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {t.name} | {min(t.seconds):.3f} | {t.median:.3f} | {max(t.seconds):.3f} "
        f"| {t.median / peer.median:.2f} | {t.peak / 1e6:.0f} |"
        for t in timings
    ]
    return "\n".join(lines)
