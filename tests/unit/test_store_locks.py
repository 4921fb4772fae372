"""Locks between processes: waiting, refusing, inheriting, and what a kill leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import Busy, MachineCannot
from runner.store import locks
from runner.store.locks import Holder, Lock, read_holder

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from runner.store.locks import Lock
with Lock(Path(sys.argv[1]), "the thing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate()


def test_who_may_not_wait_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with holder(path) as other:
        with (
            pytest.raises(
                Busy,
                match=f"the thing is in use by process {other.pid} "
                rf"\(-c {path}\)",
            ) as caught,
            Lock(path, "the thing", wait=False),
        ):
            pass
        assert caught.value.exit_code == 6
        assert caught.value.hint


def test_who_waits_says_so_once_and_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    waited_for: list[Holder] = []
    with holder(path) as other:

        def on_wait(found: Holder) -> None:
            waited_for.append(found)
            assert other.stdin is not None
            other.stdin.close()
            other.stdin = None

        with Lock(path, "the thing", on_wait=on_wait):
            assert read_holder(path).pid == os.getpid()
    assert [found.pid for found in waited_for] == [other.pid]


def test_a_free_lock_is_taken_without_a_word(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock", "x", on_wait=lambda holder: pytest.fail("it is free")):
        pass
    with Lock(tmp_path / "lock", "x", wait=False):
        pass


def test_a_kill_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as other:
        other.kill()
        with Lock(path, "x"):
            pass


def test_an_heir_keeps_the_lock_after_the_first_holder_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path, "x") as lock:
        heir = subprocess.Popen(["sleep", "0.5"], pass_fds=[lock.fd])
    with pytest.raises(Busy), Lock(path, "x", wait=False):
        pass
    heir.wait()
    with Lock(path, "x", wait=False):
        pass


def test_the_lock_is_not_inherited_by_accident(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock", "x"):
        stranger = subprocess.Popen(["sleep", "5"], close_fds=False)
    with Lock(tmp_path / "lock", "x", wait=False):
        pass
    stranger.kill()
    stranger.wait()


def test_who_waited_for_a_deleted_lock_file_does_not_share_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    waiter = f"""
from pathlib import Path
from runner.store.locks import Lock
with Lock(Path({str(path)!r}), "x", on_wait=lambda holder: print("waiting", flush=True)):
    print(Path({str(path)!r}).exists(), flush=True)
"""
    with Lock(path, "x") as lock:
        other = subprocess.Popen(
            [sys.executable, "-c", waiter], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        lock.remove()
    said, _ = other.communicate()
    assert said == "True\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_an_unreadable_signature_is_another_process(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    assert str(read_holder(tmp_path / "lock")) == "another process"
    assert str(Holder(3, "elsewhere", "recipe run x.yaml")) == (
        "process 3 on elsewhere (recipe run x.yaml)"
    )


def test_a_lock_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = pytest.raises(MachineCannot, match="cannot write while locking the thing")
    with words as caught, Lock(tmp_path / "file" / "lock", "the thing"):
        pass
    assert caught.value.code == "E411"
    assert "move the file away" in caught.value.hint


def test_who_waits_hears_of_every_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.01)
    path = tmp_path / "lock"
    told: list[Holder] = []
    heard = threading.Event()

    def on_wait(found: Holder) -> None:
        told.append(found)
        if len(told) == 2:
            heard.set()

    def wait() -> None:
        with Lock(path, "x", on_wait=on_wait):
            pass

    with ThreadPoolExecutor(1) as pool, Lock(path, "x"):
        waiter = pool.submit(wait)
        while not told:
            assert not waiter.done()
            time.sleep(0.01)
        path.write_text("")  # as between two holders
        path.write_text(json.dumps({"pid": 7, "host": "other", "command": "recipe run y.yaml"}))
        assert heard.wait(60)
    assert [found.pid for found in told] == [os.getpid(), 7]
