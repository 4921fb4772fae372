"""When machines that have met take their devices: real lock files, the loopback, no training."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runner.errors import Busy, Interrupted, MachineCannot, StageFailed, UsageError
from runner.execution.machines import meeting
from runner.execution.machines.link import Link
from runner.execution.machines.meeting import PROTOCOL, First, Other
from runner.execution.turn import Turn
from runner.store.locks import Holder, Lock, is_held, read_holder
from tests.chain import ROOT

PLAN: dict[str, Any] = {"spec": {"seed": 1}}


class Computer:
    """A machine: a folder of locks, and who was waited for there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waited: list[tuple[str, Holder]] = []  # for locks
        self.asked_after: list[str] = []  # what else was waited for
        self.opened: list[tuple[int, ...]] = []

    def lock(self, name: str = "device") -> Lock:
        return Lock(self.folder / f"{name}.lock", name, wait=False)

    def is_busy(self) -> bool:
        return any(is_held(path) for path in self.folder.glob("*.lock"))

    def turn(self, key: str = "key", *, wait: bool = True) -> Turn:
        locks = [("the same work", lambda: self.lock(key)), ("the device", self.lock)]
        return Turn(locks, self.opened.append, self.on_wait, wait=wait)

    def on_wait(self, what: str, who: Holder | None) -> None:
        if who is None:
            self.asked_after.append(what)
        else:
            self.waited.append((what, who))


class Scene:
    """Machines and what is said on them; every wait ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = Computer(folder / "a"), Computer(folder / "b")
        self.said: list[str] = []
        self.joiner_said: list[str] = []
        self._ended = threading.Event()
        self._machines: list[First] = []
        self._others: list[Other] = []
        self._pool = ThreadPoolExecutor(8)

    def beside(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def poll(self) -> None:
        if self._ended.is_set():
            raise Interrupted(2)

    def waits_for(self, address: tuple[str, int], machines: int = 2) -> First:
        self._machines.append(First(address, machines, "join", self.said.append, self.poll))
        return self._machines[-1]

    def joins(self, address: tuple[str, int]) -> Other:
        self._others.append(Other(address, self.joiner_said.append, self.poll))
        return self._others[-1]

    def until(self, holds: Callable[[], bool], *running: Future[Any]) -> None:
        """Wait for what a thread brings about, as long as it takes."""
        while not holds():
            for each in running:
                if each.done():
                    each.result()
                    assert holds(), "it ended before"
            time.sleep(0.01)

    def close(self) -> None:
        self._ended.set()
        self._pool.shutdown()
        for each in (*self._machines, *self._others):
            each.end(Interrupted(2))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(meeting, "TRY_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(meeting, "TAKE_AGAIN_SECONDS", (0.0, 0.1))
    made = Scene(tmp_path)
    yield made
    made.close()


def free_address() -> tuple[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(probe.getsockname()[1])


@pytest.fixture
def address() -> tuple[str, int]:
    return free_address()


def said(lines: list[str], words: str) -> Callable[[], bool]:
    return lambda: any(words in line for line in list(lines))


# --- the locks of one machine


def test_all_locks_are_taken_or_none(tmp_path: Path) -> None:
    computer = Computer(tmp_path)
    turn = computer.turn()
    with computer.lock():
        assert turn.take() == f"the device, held by {read_holder(tmp_path / 'device.lock')}"
        assert not turn.taken
        assert not is_held(tmp_path / "key.lock")
        assert turn.take()
    assert [what for what, _ in computer.waited] == ["the device"]  # said once
    assert turn.take() == turn.take() == ""
    assert is_held(tmp_path / "key.lock")
    assert is_held(tmp_path / "device.lock")
    (descriptors,) = computer.opened
    assert len(descriptors) == 2
    turn.give_back()
    assert not computer.is_busy()


def test_a_machine_that_cannot_begin_keeps_no_lock(tmp_path: Path) -> None:
    computer = Computer(tmp_path)

    def full(_: tuple[int, ...]) -> None:
        raise MachineCannot("no memory", code="E940")

    turn = Turn([("the device", computer.lock)], full, lambda *_: None, wait=True)
    with pytest.raises(MachineCannot):
        turn.take()
    assert not turn.taken
    assert not computer.is_busy()


# --- nobody has a device before all are here


def test_who_waits_for_the_others_leaves_its_device_to_other_runs(
    scene: Scene, address: tuple[str, int]
) -> None:
    first, turn = scene.waits_for(address), scene.first.turn()
    begun = scene.beside(lambda: first.begin(PLAN, turn))
    scene.until(said(scene.said, "waiting for 1 more"), begun)
    assert not scene.first.is_busy()
    theirs = scene.second.turn()
    other = scene.joins(address)
    joined = scene.beside(lambda: other.begin(PLAN, theirs))
    assert (begun.result(60)["machine"], joined.result(60)["machine"]) == (0, 1)
    assert turn.taken
    assert theirs.taken
    assert scene.first.is_busy()
    assert scene.second.is_busy()
    first.end(None)
    other.end(None)


def test_the_others_see_whom_the_first_machine_waits_for(
    scene: Scene, address: tuple[str, int]
) -> None:
    first, other = scene.waits_for(address), scene.joins(address)
    turn, theirs = scene.first.turn(), scene.second.turn()
    with scene.first.lock():
        begun = scene.beside(lambda: first.begin(PLAN, turn))
        joined = scene.beside(lambda: other.begin(PLAN, theirs))
        words = "the first machine waits for the device, held by process "
        scene.until(said(scene.joiner_said, words), begun, joined)
        assert not theirs.taken
        assert not scene.second.is_busy()
        assert scene.first.waited[0][1].pid == os.getpid()
    begun.result(60)
    assert joined.result(60)["machine"] == 1
    first.end(None)
    other.end(None)


def test_the_first_sees_whom_a_joiner_waits_for_and_has_no_device_meanwhile(
    scene: Scene, address: tuple[str, int]
) -> None:
    first, other = scene.waits_for(address), scene.joins(address)
    turn, theirs = scene.first.turn(), scene.second.turn()
    with scene.second.lock("key"):
        begun = scene.beside(lambda: first.begin(PLAN, turn))
        joined = scene.beside(lambda: other.begin(PLAN, theirs))
        words = "machine 2 (127.0.0.1) waits for the same work, held by process "
        scene.until(said(scene.said, words), begun, joined)
        scene.until(lambda: not scene.first.is_busy(), begun, joined)
        assert scene.second.waited[0][0] == "the same work"
        assert scene.second.asked_after[0] == "the training at {}:{}".format(*address)
        assert scene.first.asked_after[0] == "1 more; on each: join"
        scene.until(lambda: scene.first.asked_after[-1].startswith(f"its turn: {words}"), begun)
    begun.result(60)
    joined.result(60)
    first.end(None)
    other.end(None)


@pytest.mark.parametrize("key", ["the same", "another"])
def test_two_trainings_that_need_the_same_two_machines_do_not_block_each_other(
    scene: Scene, key: str
) -> None:
    """Each machine is the first of one and joins the other, all at once."""
    places = [free_address(), free_address()]
    computers = [scene.first, scene.second]
    trained: list[int] = []

    def train(number: int) -> None:
        first = scene.waits_for(places[number])
        turn = computers[number].turn(key_of(number))
        first.begin(PLAN, turn)
        trained.append(number)
        while not all(first._links.values()):
            scene.poll()
            first.poll()
        first.end(None)
        turn.give_back()

    def take_part(number: int) -> None:
        other = scene.joins(places[number])
        turn = computers[1 - number].turn(key_of(number))
        other.begin(PLAN, turn)
        other.end(None)
        turn.give_back()

    def key_of(number: int) -> str:
        return "key" if key == "the same" else f"key-{number}"

    with scene.first.lock(), scene.second.lock():
        running = [
            scene.beside(lambda number=number, side=side: side(number))  # type: ignore[misc]
            for number in (0, 1)
            for side in (train, take_part)
        ]
        scene.until(lambda: bool(scene.first.waited and scene.second.waited), *running)
    for each in running:
        each.result(120)
    assert sorted(trained) == [0, 1]
    assert not scene.first.is_busy()
    assert not scene.second.is_busy()


def test_three_machines_begin_when_the_last_is_free(
    scene: Scene, address: tuple[str, int], tmp_path: Path
) -> None:
    third = Computer(tmp_path / "c")
    first = scene.waits_for(address, 3)
    others = [scene.joins(address), scene.joins(address)]
    with third.lock():
        begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
        joined = [
            scene.beside(lambda each=each, of=of: each.begin(PLAN, of.turn()))  # type: ignore[misc]
            for each, of in zip(others, (scene.second, third), strict=True)
        ]
        scene.until(said(scene.joiner_said, " waits for the device, held by "), begun, *joined)
        scene.until(lambda: not scene.first.is_busy() and not scene.second.is_busy(), begun)
    assert begun.result(60)["machines"] == 3
    assert sorted(each.result(60)["machine"] for each in joined) == [1, 2]
    first.end(None)
    for each in others:
        each.end(None)


# --- not to wait


def test_a_first_machine_that_may_not_wait_says_who_has_its_device(
    scene: Scene, address: tuple[str, int]
) -> None:
    first, other = scene.waits_for(address), scene.joins(address)
    joined = scene.beside(lambda: other.begin(PLAN, scene.second.turn()))
    with scene.first.lock():
        with pytest.raises(Busy, match="all machines are here, but the first machine") as busy:
            first.begin(PLAN, scene.first.turn(wait=False))
        first.end(busy.value)
    assert (busy.value.code, busy.value.exit_code) == ("E964", 6)
    assert f"held by process {os.getpid()}" in busy.value.message
    # whoever joined hears why, and waits on for a first machine
    scene.until(said(scene.joiner_said, "the first machine went away (all machines are"), joined)
    again = scene.waits_for(address)
    assert again.begin(PLAN, scene.first.turn())["machines"] == 2
    assert joined.result(60)["machine"] == 1
    again.end(None)
    other.end(None)


def test_a_first_machine_that_may_not_wait_does_not_wait_for_anothers_device_either(
    scene: Scene, address: tuple[str, int]
) -> None:
    first, other = scene.waits_for(address), scene.joins(address)
    scene.beside(lambda: other.begin(PLAN, scene.second.turn()))
    with scene.second.lock(), pytest.raises(Busy, match=r"but machine 2 \(127\.0\.0\.1\) waits"):
        first.begin(PLAN, scene.first.turn(wait=False))
    assert not scene.first.is_busy()
    first.end(None)


def test_a_joiner_that_may_not_wait_goes_and_another_may_come(
    scene: Scene, address: tuple[str, int]
) -> None:
    first = scene.waits_for(address)
    begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
    with scene.second.lock(), pytest.raises(Busy, match="this machine waits for the device") as no:
        scene.joins(address).begin(PLAN, scene.second.turn(wait=False))
    assert (no.value.code, no.value.exit_code) == ("E964", 6)
    scene.until(said(scene.said, "has gone: the training could begin, but"), begun)
    scene.until(lambda: sum("waiting for 1 more" in line for line in scene.said) == 2, begun)
    other = scene.joins(address)
    other.begin(PLAN, scene.second.turn())
    begun.result(60)
    first.end(None)
    other.end(None)


def test_what_keeps_a_joiner_from_beginning_is_told_to_the_first(
    scene: Scene, address: tuple[str, int]
) -> None:
    first = scene.waits_for(address)
    begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))

    def full(_: tuple[int, ...]) -> None:
        raise MachineCannot("train loads about 9 GB", code="E940")

    turn = Turn([("the device", scene.second.lock)], full, lambda *_: None, wait=True)
    with pytest.raises(MachineCannot):
        scene.joins(address).begin(PLAN, turn)
    scene.until(said(scene.said, "has gone: train loads about 9 GB"), begun)
    scene.until(lambda: not scene.first.is_busy(), begun)
    assert not scene.second.is_busy()


# --- two machines with the same locks


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("key", ["key", "another"])  # of another store in the same cache
def test_a_joiner_with_the_locks_of_the_first_machine_is_refused(
    scene: Scene, address: tuple[str, int], key: str, wait: bool
) -> None:
    first = scene.waits_for(address)
    begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
    joining = scene.joins(address)
    joined = scene.beside(lambda: joining.begin(PLAN, scene.first.turn(key, wait=wait)))
    with pytest.raises(UsageError) as refused:
        joined.result(60)
    assert (refused.value.code, refused.value.exit_code) == ("E956", 2)
    what = "the same work" if key == "key" else "the device"
    assert f"{what}, held by process {os.getpid()} " in refused.value.message
    assert "put SPARK_RECIPES_CACHE=FOLDER before" in refused.value.hint
    scene.until(said(scene.said, "machine 2 (127.0.0.1) has gone: two machines of this"), begun)
    other = scene.joins(address)  # one with locks of its own is waited for
    other.begin(PLAN, scene.second.turn())
    begun.result(60)
    first.end(None)
    other.end(None)


def test_a_joiner_that_was_asked_before_the_first_machine_is_refused_too(
    scene: Scene, address: tuple[str, int]
) -> None:
    first, other = scene.waits_for(address), scene.joins(address)
    turn, theirs = scene.first.turn(), scene.first.turn("another")
    with scene.first.lock("another"):
        begun = scene.beside(lambda: first.begin(PLAN, turn))
        joined = scene.beside(lambda: other.begin(PLAN, theirs))
        scene.until(said(scene.said, "machine 2 (127.0.0.1) waits for the same work"), begun)
    with pytest.raises(UsageError, match="the device, held by process ") as refused:
        joined.result(60)
    assert refused.value.code == "E956"
    scene.until(lambda: not scene.first.is_busy(), begun)


def test_two_joiners_with_the_same_locks_are_one_too_many(
    scene: Scene, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(tmp_path))
    first = scene.waits_for(address, 3)
    begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
    others = [scene.joins(address), scene.joins(address)]
    joined = [
        scene.beside(lambda each=each: each.begin(PLAN, scene.second.turn()))  # type: ignore[misc]
        for each in others
    ]
    scene.until(lambda: any(each.done() for each in joined), begun)
    (refused,) = [each.exception() for each in joined if each.done()]
    assert isinstance(refused, UsageError)
    assert "put SPARK_RECIPES_CACHE=FOLDER SPARK_RECIPES_STORE=FOLDER before" in refused.hint
    scene.until(lambda: not scene.second.is_busy(), begun)


# --- some go while others wait


def test_a_joiner_that_leaves_while_the_first_waits_for_its_device_is_missed(
    scene: Scene, address: tuple[str, int]
) -> None:
    first = scene.waits_for(address)
    with scene.first.lock():
        begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
        leaving = threading.Event()

        def stop() -> None:
            if leaving.is_set():
                raise Interrupted(2)

        one = Other(address, scene.joiner_said.append, stop)
        joined = scene.beside(lambda: one.begin(PLAN, scene.second.turn()))
        scene.until(said(scene.joiner_said, "the first machine waits for"), begun, joined)
        leaving.set()
        with pytest.raises(Interrupted):
            joined.result(60)
        scene.until(said(scene.said, "has gone: it was interrupted"), begun)
    # its device is free now, and it has none: it waits for another machine first
    scene.until(lambda: sum("waiting for 1 more" in line for line in scene.said) == 2, begun)
    assert not scene.first.is_busy()
    other = scene.joins(address)
    other.begin(PLAN, scene.second.turn())
    begun.result(60)
    first.end(None)
    other.end(None)


def test_a_first_machine_that_is_stopped_while_it_waits_tells_and_leaves_no_lock(
    scene: Scene, address: tuple[str, int]
) -> None:
    stopped = threading.Event()

    def stop() -> None:
        if stopped.is_set():
            raise Interrupted(2)

    first = First(address, 2, "recipe join", scene.said.append, stop)
    other = scene.joins(address)
    with scene.second.lock():
        begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
        joined = scene.beside(lambda: other.begin(PLAN, scene.second.turn()))
        scene.until(said(scene.said, "machine 2 (127.0.0.1) waits for the device"), begun, joined)
        stopped.set()
        with pytest.raises(Interrupted) as why:
            begun.result(60)
        first.end(why.value)
        scene.until(said(scene.joiner_said, "went away (it was interrupted); trying"), joined)
        assert not scene.first.is_busy()
    assert not scene.second.is_busy()


KILLED = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from runner.execution.machines import meeting
from tests.unit.test_turns import PLAN, Computer
say = lambda line: print(line, flush=True)
{what}
"""
FIRST_ONE = """
first = meeting.First({address!r}, 2, "recipe join", say, lambda: None)
first.begin(PLAN, Computer(Path({folder!r})).turn())
"""
JOINER = """
turn = Computer(Path({folder!r})).turn()
take = turn.take
def taking():
    holder = take()
    say("taken" if not holder else "busy")
    sys.stdin.readline()  # killed here
    return holder
turn.take = taking
meeting.Other({address!r}, say, lambda: None).begin(PLAN, turn)
"""


@contextlib.contextmanager
def other_process(what: str, **places: Any) -> Iterator[subprocess.Popen[str]]:
    code = KILLED.format(root=str(ROOT), what=what.format(**places))
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    while words not in (line := process.stdout.readline()):
        assert line, "it ended before"


def test_a_first_machine_that_is_killed_while_it_waits_leaves_no_lock(
    scene: Scene, address: tuple[str, int]
) -> None:
    other = scene.joins(address)
    folder = str(scene.first.folder)
    with other_process(FIRST_ONE, address=address, folder=folder) as killed, scene.second.lock():
        joined = scene.beside(lambda: other.begin(PLAN, scene.second.turn()))
        read_until(killed, "machine 2 (127.0.0.1) waits for the device")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        scene.until(said(scene.joiner_said, "the first machine went away"), joined)
    assert not scene.first.is_busy()
    again = scene.waits_for(address)
    again.begin(PLAN, scene.first.turn())
    assert joined.result(60)["machine"] == 1
    again.end(None)
    other.end(None)


def test_a_joiner_that_is_killed_with_the_device_in_hand_leaves_it_free(
    scene: Scene, address: tuple[str, int]
) -> None:
    first = scene.waits_for(address)
    folder = str(scene.second.folder)
    with other_process(JOINER, address=address, folder=folder) as killed:
        begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
        read_until(killed, "taken")
        assert scene.second.is_busy()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not scene.second.is_busy()
        scene.until(said(scene.said, "machine 2 (127.0.0.1) has gone"), begun)
    scene.until(lambda: not scene.first.is_busy(), begun)
    other = scene.joins(address)
    other.begin(PLAN, scene.second.turn())
    begun.result(60)
    first.end(None)
    other.end(None)


# --- others that speak otherwise


def test_another_checkouts_way_of_talking_is_refused(
    scene: Scene, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.waits_for(address)
    begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
    scene.until(said(scene.said, "waiting for 1 more"), begun)
    monkeypatch.setattr(meeting, "PROTOCOL", PROTOCOL + 1)
    with pytest.raises(StageFailed, match=f"checkout talk: {PROTOCOL} on") as no:
        scene.joins(address).begin(PLAN, scene.second.turn())
    assert no.value.code == "E378"


@pytest.mark.parametrize("answer", [{"busy": "\x1b[2J" + "x" * 9999}, {"busy": ""}])
def test_what_another_machine_says_is_fit_for_a_terminal(
    scene: Scene, address: tuple[str, int], answer: dict[str, str]
) -> None:
    first = scene.waits_for(address)
    begun = scene.beside(lambda: first.begin(PLAN, scene.first.turn()))
    with contextlib.closing(Link(socket.create_connection(address), "x")) as link:
        link.send(ready=True)
        while not any("take" in message for message in link.heard(0.1)):
            assert not begun.done()
        link.send(**answer)
        scene.until(said(scene.said, "machine 2 (127.0.0.1) waits for "), begun)
    (line,) = [line for line in scene.said if "waits for" in line]
    assert "\x1b" not in line
    assert len(line) < 500


def test_who_is_told_to_begin_without_a_device_does_not(
    scene: Scene, address: tuple[str, int]
) -> None:
    with socket.create_server(address) as listening:
        joined = scene.beside(lambda: scene.joins(address).begin(PLAN, scene.second.turn()))
        connection, _ = listening.accept()
        with contextlib.closing(Link(connection, "x")) as link:
            link.send(plan={**PLAN, "protocol": PROTOCOL})
            while not any("ready" in message for message in link.heard(0.1)):
                assert not joined.done()
            link.send(begin={"machine": 1})
            scene.until(said(scene.joiner_said, "does not speak as a runner does"), joined)
    assert not scene.second.is_busy()
