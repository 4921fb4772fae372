"""Runs one child tree and outlives the runner just long enough to end that tree.

Started as `python -I -S supervisor.py RUNNER_PID`, standard library only, one thread. stdin is the
order and the sign of life: one JSON line that says what to run, then `stop` or `kill` lines; its
end means that the runner is dead. stdout takes one JSON line when the child has started and one
when the whole tree is gone.

Why a process of its own: PDEATHSIG fires when the *thread* that started a child ends, and it does
not reach grandchildren. Here the thread is the process, and as a subreaper it becomes the parent
of every orphan below it. It holds the locks it inherited until the last of them is dead, so a lock
is never free while a training that nobody watches still fills the memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_SECONDS = 1.0  # how often to look whether the runner lives, should no event say so
LINGER_SECONDS = 1.0  # what a finished child's helpers get to end by themselves
KILL_SECONDS = 0.02  # pause between two rounds of killing
CONTROL, REPORT = 0, 1
_libc = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    """Watches the runner (stdin, parent pid) and the child tree at once."""

    def __init__(self, runner_pid: int) -> None:
        self.runner_pid = runner_pid
        self.runner_alive = True
        self.child = 0
        self.grace = 0.0  # seconds between SIGTERM and SIGKILL
        self.status: int | None = None  # wait status of the child, once it has ended
        self.peak_memory = 0  # bytes, of the largest process of the tree
        self.deadline = math.inf  # from then on everything below is killed, round after round
        self.doomed: set[int] = set()  # what was sent SIGKILL
        self.control = b""
        self.wake = _signals_as_pipe()
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        # Only a nudge to look up; the parent's pid and the end of stdin are the truth.
        _prctl(PR_SET_PDEATHSIG, signal.SIGHUP)

    def main(self) -> None:
        """Read the order, run the child, end its tree, report."""
        job = self._read_job()
        if job is None:
            return
        self.grace = job["grace"]
        self.child, error = _start(job)
        if error:
            os.waitpid(self.child, 0)
            self._report({"error": error})
            return
        self._report({"started": self.child})
        # Not over before all are dead, however long the driver holds one of them.
        while self._reap():
            self._turn()
        self._report(
            {
                "status": self.status,
                "peak_memory": self.peak_memory,
                "killed": self.child in self.doomed,
                "leftover": len(self.doomed - {self.child}),
            }
        )

    def _read_job(self) -> dict[str, Any] | None:
        while b"\n" not in self.control:
            if not (data := os.read(CONTROL, 1 << 16)):
                return None
            self.control += data
        line, _, self.control = self.control.partition(b"\n")
        job: dict[str, Any] = json.loads(line)
        return job

    def _turn(self) -> None:
        """Wait for the next event and act on it."""
        left = max(KILL_SECONDS, self.deadline - time.monotonic())
        watched = [self.wake, CONTROL] if self.runner_alive else [self.wake]
        ready, _, _ = select.select(watched, [], [], min(left, LOOK_SECONDS))
        if self.wake in ready and signal.SIGTERM in os.read(self.wake, 4096):
            self._stop()
        if CONTROL in ready:
            self._take_orders(os.read(CONTROL, 4096))
        if os.getppid() != self.runner_pid:
            self._runner_died()
        if time.monotonic() >= self.deadline:
            self._kill()

    def _take_orders(self, data: bytes) -> None:
        if not data:
            self._runner_died()
        *lines, self.control = (self.control + data).split(b"\n")
        for line in lines:
            if line == b"stop":
                self._stop()
            elif line == b"kill":
                self.deadline = 0.0

    def _runner_died(self) -> None:
        """Nobody is left to wait for a clean end: free memory and locks at once."""
        self.runner_alive = False
        self.deadline = 0.0

    def _stop(self) -> None:
        """Ask the child to end; its tree is killed when it has not after the grace."""
        if self.deadline == math.inf and self.status is None:
            self.deadline = time.monotonic() + self.grace
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)

    def _kill(self) -> None:
        """One round: whoever is born meanwhile, or orphaned to us, falls in the next."""
        for pid in _descendants():
            self.doomed.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Collect every process that has ended; False when there is none left to wait for."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.peak_memory = max(self.peak_memory, usage.ru_maxrss * 1024)
            if pid == self.child:
                self.status = status
                # A moment for helpers that end by themselves, such as multiprocessing's.
                self.deadline = min(self.deadline, time.monotonic() + LINGER_SECONDS)

    def _report(self, line: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(REPORT, json.dumps(line).encode() + b"\n")


def _start(job: dict[str, Any]) -> tuple[int, str]:
    """Fork the child; returns its pid and, when it could not become the program, why."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _become(job, supervisor, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pid, pipe.read().decode()


def _become(job: dict[str, Any], supervisor: int, writer: int) -> NoReturn:
    """In the child: take the program's place, or write why not to `writer`."""
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(127)
        # A group of its own, so that a program that signals its group does not hit us.
        os.setpgid(0, 0)
        if job.get("cgroup"):
            Path(job["cgroup"]).write_text("0", encoding="ascii")  # itself
        os.chdir(job["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(job["stdout"], 1)
        os.dup2(job["stderr"], 2)
        for number in {job["stdout"], job["stderr"]}:
            os.close(number)
        _be_killed_first()
        _default_signals()
        os.execvpe(job["argv"][0], job["argv"], job["env"])
    except OSError as error:
        place = "" if error.filename is None else f" ({os.fsdecode(error.filename)})"
        os.write(writer, f"{error.strerror}{place}".encode())
    finally:
        os._exit(127)


def _default_signals() -> None:
    """Undo what Python changed, since an ignored signal stays ignored in the program."""
    for name in ("SIGPIPE", "SIGXFSZ", "SIGTERM", "SIGHUP", "SIGINT", "SIGCHLD"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _signals_as_pipe() -> int:
    """Let signals arrive as bytes on a pipe, so that one select waits for everything."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _be_killed_first() -> None:
    """When memory runs out, the kernel shall take the training, not the desktop around it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _descendants() -> list[int]:
    """Every process below this one that has not ended, by a walk over /proc."""
    children: dict[int, list[int]] = {}
    ended: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            # pid (name) state parent ...: the name may contain anything, parentheses too.
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(entry.name))
            if state == b"Z":
                ended.add(int(entry.name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [pid for pid in found if pid not in ended]


if __name__ == "__main__":
    Supervisor(int(sys.argv[1])).main()
