"""Children under the supervisor: nothing outlives the runner, and every end is told truthfully."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.errors import Busy, Interrupted, MachineCannot
from runner.store.locks import Lock
from runner.system import memory_limit
from runner.system.process import (
    ChildResult,
    child_env,
    describe_exit,
    run_child,
    start_service,
    tail,
)

ROOT = Path(__file__).resolve().parents[2]

# A child with two helpers that try to escape: one daemonizes (new session, double fork), one
# ignores SIGTERM. Each writes its pid, so that the test can look for it.
TREE = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def note(name):
    (folder / (name + ".tmp")).write_text(str(os.getpid()))
    (folder / (name + ".tmp")).rename(folder / (name + ".pid"))
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    note("daemon")
    time.sleep(600)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("stubborn")
    time.sleep(600)
note("child")
if "end" in sys.argv:
    while len(list(folder.glob("*.pid"))) < 3:
        time.sleep(0.01)
    sys.exit(0)
time.sleep(600)
"""
RUNNER = """
import sys
from pathlib import Path
from runner.store.locks import Lock
from runner.system.process import child_env, run_child
folder = Path(sys.argv[1])
with Lock(folder / "device.lock", "the device") as lock:
    run_child([sys.executable, "-c", sys.argv[2], str(folder)], env=child_env({}), cwd=folder,
              stdout=folder / "log", stderr=folder / "log", lock_fds=[lock.fd], grace=1.0)
"""
NAMES = ("child", "daemon", "stubborn")


def alive(pid: int) -> bool:
    """Does the process run? A zombie that nobody has reaped does not."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.01)


def pids(folder: Path) -> dict[str, int]:
    wait_for(lambda: all((folder / f"{name}.pid").exists() for name in NAMES), "the tree")
    return {name: int((folder / f"{name}.pid").read_text()) for name in NAMES}


def run(folder: Path, *argv: str, **options: object) -> ChildResult:
    settings = {"env": child_env({}), "cwd": folder, "stderr": folder / "log"}
    return run_child(argv, **{**settings, **options})  # type: ignore[arg-type]


def python(folder: Path, code: str, *arguments: str, **options: object) -> ChildResult:
    return run(folder, sys.executable, "-c", code, *arguments, **options)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A runner in the middle of a stage, with the whole tree alive and the device locked."""
    process = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path), TREE], cwd=ROOT)
    pids(tmp_path)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def test_a_killed_runner_takes_its_whole_tree_along(
    tmp_path: Path, runner: subprocess.Popen[bytes]
) -> None:
    tree = pids(tmp_path)
    runner.kill()
    runner.wait()
    with Lock(tmp_path / "device.lock", "the device"):
        # The lock is free only now, and by now nothing of the tree is left.
        assert [name for name, pid in tree.items() if alive(pid)] == []


def test_the_lock_stays_taken_while_a_process_of_the_tree_cannot_die(
    tmp_path: Path, runner: subprocess.Popen[bytes]
) -> None:
    """Between the runner's death and the tree's there is no moment with a free lock."""
    stopped = _supervisor_of(runner.pid)
    os.kill(stopped, signal.SIGSTOP)
    runner.kill()
    runner.wait()
    tree = pids(tmp_path)
    time.sleep(0.3)
    assert all(alive(pid) for pid in tree.values())
    with pytest.raises(Busy, match=str(runner.pid)):
        Lock(tmp_path / "device.lock", "the device", wait=False).__enter__()
    os.kill(stopped, signal.SIGCONT)
    with Lock(tmp_path / "device.lock", "the device"):
        assert not any(alive(pid) for pid in tree.values())


def test_a_killed_supervisor_takes_the_child_along_and_keeps_the_lock_meanwhile(
    tmp_path: Path, runner: subprocess.Popen[bytes]
) -> None:
    """The worst case: its helpers live on, but as heirs of the lock they keep the device taken."""
    tree = pids(tmp_path)
    os.kill(_supervisor_of(runner.pid), signal.SIGKILL)
    wait_for(lambda: not alive(tree["child"]), "the child's death")
    runner.wait()
    assert runner.returncode == 0  # RUNNER takes any result; the result itself says SIGKILL
    with pytest.raises(Busy):
        Lock(tmp_path / "device.lock", "the device", wait=False).__enter__()
    for name in ("daemon", "stubborn"):
        os.kill(tree[name], signal.SIGKILL)
    with Lock(tmp_path / "device.lock", "the device"):
        pass


def _supervisor_of(runner_pid: int) -> int:
    (pid,) = Path(f"/proc/{runner_pid}/task/{runner_pid}/children").read_text().split()
    return int(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_runner_ends_the_tree_first(tmp_path: Path, number: int) -> None:
    tree: dict[str, int] = {}

    def on_poll() -> None:
        if not tree and all((tmp_path / f"{name}.pid").exists() for name in NAMES):
            tree.update(pids(tmp_path))
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        python(tmp_path, TREE, str(tmp_path), on_poll=on_poll, grace=0.5)
    assert caught.value.exit_code == 128 + number
    assert not any(alive(pid) for pid in tree.values())
    assert signal.getsignal(number) == before


def test_a_child_may_use_its_grace_to_save(tmp_path: Path) -> None:
    code = """
import signal, sys, time
def save(*_):
    time.sleep(0.3)
    open("saved", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open("ready", "w").close()
time.sleep(600)
"""

    def on_poll() -> None:
        if (tmp_path / "ready").exists():
            (tmp_path / "ready").unlink()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        python(tmp_path, code, on_poll=on_poll)
    assert (tmp_path / "saved").exists()


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("ready", "w").close()
time.sleep(600)
"""


def test_a_second_signal_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    sent: list[float] = []

    def on_poll() -> None:
        if (tmp_path / "ready").exists() and len(sent) < 2:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        python(tmp_path, STUBBORN, on_poll=on_poll, grace=300.0)
    assert caught.value.exit_code == 130
    assert time.monotonic() - sent[0] < 60


def test_an_error_of_our_own_ends_the_tree_too(tmp_path: Path) -> None:
    def on_poll() -> None:
        if len(list(tmp_path.glob("*.pid"))) == len(NAMES):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        python(tmp_path, TREE, str(tmp_path), on_poll=on_poll)
    assert not any(alive(pid) for pid in pids(tmp_path).values())


def test_what_a_finished_child_leaves_behind_is_killed_and_counted(tmp_path: Path) -> None:
    result = python(tmp_path, TREE, str(tmp_path), "end")
    assert result.ok
    assert result.leftover == 2
    assert not any(alive(pid) for pid in pids(tmp_path).values())


def test_a_helper_that_ends_by_itself_in_time_is_not_killed(tmp_path: Path) -> None:
    result = run(tmp_path, "sh", "-c", "(sleep 0.3; echo late > late) & exit 0")
    assert (result.ok, result.leftover) == (True, 0)
    assert (tmp_path / "late").exists()


def test_the_thread_that_starts_a_server_may_end(tmp_path: Path) -> None:
    """PDEATHSIG alone would fire now: it watches the thread, not the process."""
    started = []

    def start() -> None:
        started.append(
            start_service(["sleep", "600"], env=child_env({}), cwd=tmp_path, log=tmp_path / "log")
        )

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (service,) = started
    time.sleep(1.5)  # longer than the supervisor's own look-around
    assert service.alive()
    assert alive(service.pid)
    result = service.stop()
    assert result.signal == signal.SIGTERM
    assert not alive(service.pid)


def test_a_child_may_be_run_from_a_thread(tmp_path: Path) -> None:
    results: list[ChildResult] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, "echo", "hello")))
    thread.start()
    thread.join()
    assert results[0].stdout == b"hello\n"


@pytest.mark.parametrize("forked", [False, True])
def test_a_server_dies_with_the_runner(tmp_path: Path, forked: bool) -> None:
    """Also when a process that the runner forked keeps the supervisor's stdin open."""
    code = f"""
import os, time
from pathlib import Path
from runner.system.process import child_env, start_service
folder = Path({str(tmp_path)!r})
service = start_service(["sleep", "600"], env=child_env({{}}), cwd=folder, log=folder / "log")
other = os.fork() if {forked} else -1
if other != 0:
    print(service.pid, other, flush=True)
os.close(1)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    server, other = map(int, process.stdout.readline().split())
    assert alive(server)
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(server), "the server's death")
    if forked:
        assert alive(other)
        os.kill(other, signal.SIGKILL)


def test_a_server_that_ended_by_itself_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ["sh", "-c", "echo no port >&2; exit 7"]
    with start_service(argv, env=child_env({}), cwd=tmp_path, log=log) as service:
        wait_for(lambda: not service.alive(), "the end")
    result = service.stop()
    assert result.returncode == 7
    assert tail(log, 1) == "no port"


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STUBBORN]
    service = start_service(argv, env=child_env({}), cwd=tmp_path, log=tmp_path / "log")
    wait_for(lambda: (tmp_path / "ready").exists(), "the server")
    result = service.stop(grace=0.2)
    assert (result.signal, result.killed) == (signal.SIGKILL, True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 0", "sh exited with status 0"),
        ("exit 3", "sh exited with status 3"),
        ("echo first >&2; echo no such luck >&2; exit 1", "sh exited with status 1: no such luck"),
        ("kill -SEGV $$", "sh was killed by SIGSEGV"),
        ("kill -XFSZ $$", "sh was killed by SIGXFSZ: a file grew beyond the size limit"),
        ("kill -KILL $$", "sh was killed by SIGKILL, by hand or because memory ran out"),
        ("echo 'OSError: No space left on device' >&2; exit 1", "status 1: the disk is full"),
        ("echo 'torch.OutOfMemoryError: CUDA out of memory.' >&2; exit 1", "the GPU's memory"),
    ],
)
def test_every_end_is_told_truthfully(tmp_path: Path, command: str, words: str) -> None:
    assert words in describe_exit(run(tmp_path, "sh", "-c", command))


def test_our_own_kill_is_not_blamed_on_memory(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STUBBORN]
    service = start_service(argv, env=child_env({}), cwd=tmp_path, log=tmp_path / "log")
    wait_for(lambda: (tmp_path / "ready").exists(), "the server")
    assert describe_exit(service.stop(grace=0.1)).endswith("was killed by SIGKILL")


def test_a_full_file_is_told(tmp_path: Path) -> None:
    """ulimit -f stands in for a full disk: the child's own traceback names it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        result = python(tmp_path, "open('big', 'wb').write(b'x' * 100_000)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.returncode == 1
    assert "a file grew beyond the size limit" in describe_exit(result)


def test_a_tree_that_takes_more_than_its_limit_dies_alone(tmp_path: Path) -> None:
    """Needs a memory cgroup that we may make; elsewhere the words are checked alone."""
    code = """
import subprocess, sys
taking = "b = bytearray(300 << 20); print(len(b))"
ended = subprocess.run([sys.executable, "-c", taking], capture_output=True).returncode
print(ended)
b = bytearray(300 << 20)
"""
    with memory_limit.group(60 << 20) as group:
        if group is None:
            made = python(tmp_path, "import os; os.kill(os.getpid(), 9)")
            assert "ran out" in describe_exit(made)
            return
        small = python(tmp_path, "print(1)", group=group)
        assert (small.ok, small.oom_killed) == (True, False)
        result = python(tmp_path, code, group=group)
        assert group.oom_kills() >= 1
    assert result.signal == signal.SIGKILL
    assert result.oom_killed
    assert describe_exit(result).endswith("ran out of memory")
    assert not group.folder.exists()


def test_output_is_captured_whole_and_logs_are_appended(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    code = "import sys; sys.stdout.write('x' * 300_000); print('said', file=sys.stderr)"
    result = python(tmp_path, code)
    assert result.stdout == b"x" * 300_000
    assert (tmp_path / "log").read_text() == "before\nsaid\n"
    result = run(tmp_path, "echo", "one", stdout=tmp_path / "out")
    assert result.stdout == b""
    assert (tmp_path / "out").read_text() == "one\n"


def test_measures_of_a_child(tmp_path: Path) -> None:
    result = python(tmp_path, "import time; b = bytearray(80 << 20); time.sleep(0.2)")
    assert 80 << 20 <= result.peak_memory < 200 << 20
    assert 0.2 <= result.seconds < 30


@pytest.mark.parametrize(
    ("argv", "cwd", "words"),
    [
        (["no-such-program"], ".", "cannot start no-such-program: No such file"),
        (["/etc/passwd"], ".", "cannot start /etc/passwd: Permission denied"),
        (["true"], "nowhere", "cannot start true: No such file or directory .*nowhere"),
    ],
)
def test_what_cannot_be_started_says_why(
    tmp_path: Path, argv: list[str], cwd: str, words: str
) -> None:
    with pytest.raises(MachineCannot, match=words):
        run_child(argv, env=child_env({}), cwd=tmp_path / cwd, stderr=tmp_path / "log")


def test_a_child_sees_only_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "PYTHONPATH", "LANG", "TZ", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "from-the-host")
    monkeypatch.setenv("https_proxy", "proxy")
    monkeypatch.setenv("SSL_CERT_FILE", "certificates")
    env = child_env({"OMP_NUM_THREADS": "2", "HOME": "/pinned"})
    said = run(tmp_path, "env", env=env).stdout.decode()
    seen = dict(line.split("=", 1) for line in said.splitlines())
    assert seen == env
    assert seen["OMP_NUM_THREADS"] == "2"
    assert (seen["https_proxy"], seen["SSL_CERT_FILE"]) == ("proxy", "certificates")
    assert (seen["HOME"], seen["LC_ALL"]) == ("/pinned", "C.UTF-8")
    assert not {"HF_TOKEN", "PYTHONPATH", "LANG", "TZ"} & set(seen)
    assert child_env({}, secrets=["HF_TOKEN"])["HF_TOKEN"] == "from-the-host"


def test_a_child_has_no_open_files_but_its_own_and_default_signals(tmp_path: Path) -> None:
    code = """
import os, signal
from pathlib import Path
print(sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{n}")))
status = dict(l.split(":", 1) for l in Path("/proc/self/status").read_text().splitlines())
print(status["SigBlk"].strip(), status["PPid"].strip() != "1")
print(Path("/proc/self/oom_score_adj").read_text().strip())
"""
    lines = python(tmp_path, code, stdout=tmp_path / "out").stdout
    assert lines == b""
    files, signals, adjusted = (tmp_path / "out").read_text().splitlines()
    expected = sorted(["/dev/null", str(tmp_path / "out"), str(tmp_path / "log")])
    assert files == str(expected)
    assert signals == "0000000000000000 True"
    assert adjusted == "500"


def test_starting_a_child_costs_little(tmp_path: Path) -> None:
    """Beside the child's own time: well under what one import of torch takes."""
    seconds = min(run(tmp_path, "true").seconds for _ in range(5))
    assert seconds < 1.0
