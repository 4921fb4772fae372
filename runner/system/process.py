"""Run programs so that nothing of them outlives the runner, and report truthfully how they ended.

Every child tree runs under runner/system/supervisor.py, which see for the reasons.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

from runner.errors import Interrupted, MachineCannot
from runner.system.memory_limit import Group

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
TAIL_BYTES = 1 << 16
NEXT_TO_NOTHING = 1 << 16  # bytes free on a disk that is as good as full

# What a child gets from the host beside its hashed environment. None of it may change a result.
FROM_HOST = (
    *("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("PIP_CERT", "GIT_SSL_CAINFO"),
)


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended. Exactly one of `returncode` and `signal` is set."""

    argv: tuple[str, ...]
    returncode: int | None
    signal: int | None
    stdout: bytes  # empty unless captured
    stderr_path: Path
    seconds: float
    peak_memory: int  # bytes, resident, of the largest process of the tree
    killed: bool  # did we send the SIGKILL?
    oom_killed: bool  # did the kernel kill for memory while it ran?
    leftover: int  # processes it left behind, which were killed

    @property
    def ok(self) -> bool:
        """Did it exit with status 0?"""
        return self.returncode == 0


def child_env(hashed_env: Mapping[str, str], secrets: Sequence[str] = ()) -> dict[str, str]:
    """The whole environment of a child: the hashed part, and a short list from the host.

    `secrets` names variables (`HF_TOKEN`) that this child needs and nobody else shall see. The
    locale is fixed, since sorting and decoding depend on it. The hashed part wins.
    """
    host = {name: os.environ[name] for name in (*FROM_HOST, *secrets) if name in os.environ}
    return {"LC_ALL": "C.UTF-8", **host, **hashed_env}


def run_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stderr: Path,
    stdout: Path | None = None,
    lock_fds: Sequence[int] = (),
    on_poll: Callable[[], None] | None = None,
    grace: float = GRACE_SECONDS,
    group: Group | None = None,
) -> ChildResult:
    """Run a program to its end. Logs are appended to; without `stdout` it is captured.

    `lock_fds` are open lock files that stay locked until the last process of the tree is dead.
    `on_poll` is called about ten times a second. On SIGINT or SIGTERM the child gets SIGTERM, then
    after `grace` seconds SIGKILL, and Interrupted is raised once the tree is gone; a second signal
    kills at once. An exception from `on_poll` kills the tree and goes on. `group`: the cgroup that
    the tree is put into. Raises MachineCannot when the program cannot be started at all.
    """
    with (
        _signals() as arrived,
        _Tree(argv, env, cwd, stdout, stderr, lock_fds, grace, group) as tree,
    ):
        asked = 0
        while not tree.wait(POLL_SECONDS):
            if len(arrived) > asked:
                tree.order("stop" if asked == 0 else "kill")
                asked = len(arrived)
            if on_poll is not None:
                on_poll()
        result = tree.result()
    if arrived:
        raise Interrupted(arrived[0])
    if on_poll is not None:
        on_poll()
    return result


class Service:
    """A server that runs beside us until `stop`, the end of the `with` block, or our death."""

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree
        self._result: ChildResult | None = None

    @property
    def pid(self) -> int:
        """Process id of the server itself."""
        return self._tree.pid

    def alive(self) -> bool:
        """Is the server still running? False from the moment its whole tree is gone."""
        return not self._tree.wait(0.0)

    def stop(self, grace: float = GRACE_SECONDS) -> ChildResult:
        """SIGTERM, then SIGKILL after `grace` seconds; returns when the tree is gone."""
        if self._result is None:
            self._tree.order("stop")
            if not self._tree.wait(grace):
                self._tree.order("kill")
            self._tree.wait(None)
            self._result = self._tree.result()
            self._tree.close()
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_service(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    lock_fds: Sequence[int] = (),
) -> Service:
    """Start a server; stdout and stderr are appended to `log`. Raises MachineCannot."""
    return Service(_Tree(argv, env, cwd, log, log, lock_fds, GRACE_SECONDS))


class _Tree:
    """A supervisor, the child under it, and the two pipes to it."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        stdout: Path | None,
        stderr: Path,
        lock_fds: Sequence[int],
        grace: float,
        group: Group | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self._group = group
        self.stderr_path = stderr
        self._started = time.monotonic()
        self._ended = 0.0
        self._oom_kills = _oom_kills()
        self._report = b""
        with contextlib.ExitStack() as files:
            err = files.enter_context(stderr.open("ab"))
            self._captured: IO[bytes] | None = None
            out: IO[bytes]
            if stdout is None:
                out = self._captured = tempfile.TemporaryFile()  # noqa: SIM115 - read at the end
            else:
                out = files.enter_context(stdout.open("ab"))
            self._supervisor = _start_supervisor([out.fileno(), err.fileno(), *lock_fds], err)
            job = {
                "argv": list(argv),
                "env": dict(env),
                "cwd": str(cwd),
                "stdout": out.fileno(),
                "stderr": err.fileno(),
                "grace": grace,
                "cgroup": None if group is None else str(group.procs),
            }
            try:
                self.order(json.dumps(job))
                self.pid = self._first_report()
            except BaseException:
                self.close()
                raise

    def order(self, line: str) -> None:
        """Send one line to the supervisor; it may have ended already."""
        assert self._supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.stdin.write(line.encode() + b"\n")
            self._supervisor.stdin.flush()

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end of the whole tree, at most so long; is it over?"""
        limit = None if seconds is None else time.monotonic() + seconds
        while not self._ended:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            if not select.select([self._pipe()], [], [], left)[0]:
                return False
            self._read()
        return True

    def result(self) -> ChildResult:
        """How it ended; only after `wait` has said so."""
        *_, last = self._report.splitlines() or [b"{}"]
        report = json.loads(last)
        # Without a last word the supervisor itself was killed, and its child with it.
        status = report.get("status", signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        return ChildResult(
            argv=self.argv,
            returncode=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            stdout=self._stdout(),
            stderr_path=self.stderr_path,
            seconds=self._ended - self._started,
            peak_memory=report.get("peak_memory", 0),
            killed=report.get("killed", False),
            oom_killed=code == -signal.SIGKILL and self._kernel_killed(),
            leftover=report.get("leftover", 0),
        )

    def _kernel_killed(self) -> bool:
        own = self._group is not None and self._group.oom_kills() > 0
        return own or _oom_kills() > self._oom_kills

    def close(self) -> None:
        """End the tree now, if it lives, and wait until it is gone."""
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.communicate()
        if self._captured is not None:
            self._captured.close()

    def _pipe(self) -> IO[bytes]:
        assert self._supervisor.stdout is not None
        return self._supervisor.stdout

    def _read(self) -> None:
        data = os.read(self._pipe().fileno(), 4096)
        self._report += data
        if not data:
            self._supervisor.wait()
            self._ended = time.monotonic()

    def _first_report(self) -> int:
        while b"\n" not in self._report and not self._ended:
            self._read()
        first = json.loads(self._report.partition(b"\n")[0] or b"{}")
        if "started" in first:
            return int(first["started"])
        why = first.get("error", f"the supervisor died; {self.stderr_path} may say why")
        raise MachineCannot(f"cannot start {self.argv[0]}: {why}", code="E430")

    def _stdout(self) -> bytes:
        if self._captured is None:
            return b""
        self._captured.seek(0)
        return self._captured.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _start_supervisor(fds: Sequence[int], err: IO[bytes]) -> subprocess.Popen[bytes]:
    program = Path(__file__).with_name("supervisor.py")
    return subprocess.Popen(
        # -I and -S: nothing of the user's site or environment runs in it, and it starts faster.
        [sys.executable, "-I", "-S", str(program), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=err,
        pass_fds=fds,
        # Ctrl-C reaches the runner alone, which then ends the child in good order.
        start_new_session=True,
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of breaking off wherever we are.

    Outside the main thread Python allows no handlers; there the list stays empty.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    before: dict[int, Any] = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe_exit(result: ChildResult) -> str:
    """How a child ended, in words, with the likely cause where the system tells one."""
    program = Path(result.argv[0]).name
    if result.returncode is not None:
        said = f"{program} exited with status {result.returncode}"
        why = _cause_in_log(result.stderr_path) if result.returncode else ""
        return f"{said}: {why}" if why else said
    assert result.signal is not None
    said = f"{program} was killed by {_signal_name(result.signal)}"
    if result.signal == signal.SIGXFSZ:
        return f"{said}: {_CAUSES['File too large']}"
    if result.signal != signal.SIGKILL or result.killed:
        return said
    if result.oom_killed:
        return f"{said}: the machine, or this container's limit, ran out of memory"
    return f"{said}, by hand or because memory ran out (the kernel's log says which: dmesg)"


def tail(path: Path, lines: int) -> str:
    """The last lines of a log; empty when there is none."""
    return "\n".join(_tail_text(path).splitlines()[-lines:])


_CAUSES = {
    "No space left on device": "the disk is full",
    "Disk quota exceeded": "your disk quota is used up",
    "File too large": "a file grew beyond the size limit of this shell (ulimit -f)",
    "CUDA out of memory": "the GPU's memory is too small for this recipe",
    "Cannot allocate memory": "the machine ran out of memory",
}


def _cause_in_log(path: Path) -> str:
    """The cause where we know the system's words for it, else the log's last line.

    A child on a full disk may have had no room left to say so.
    """
    text = _tail_text(path)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    if not last and _is_full(path.parent):
        return _CAUSES["No space left on device"]
    return next((words for mark, words in _CAUSES.items() if mark in text), last.strip()[:200])


def _is_full(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < NEXT_TO_NOTHING


def _tail_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """How often the kernel has killed for memory since it started; 0 where it does not count."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    counts = [int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")]
    return sum(counts)
