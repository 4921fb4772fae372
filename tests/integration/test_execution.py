"""The executor with small stages: reuse, early cut-off, failure, interruption, two at once."""

from __future__ import annotations

import contextlib
import io
import json
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
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import Busy, Interrupted, MachineCannot, StageFailed
from runner.execution import context as contexts
from runner.execution.events import read_events
from runner.execution.execute import Execution
from runner.execution.machines import meeting
from runner.execution.machines.meeting import First, Other
from runner.execution.run_folder import RunFolder, latest_run
from runner.plan.keys import Surroundings
from runner.report.proof import as_lines
from runner.report.summary import render_summary, summary
from runner.runs.again import command_of
from runner.runs.known import read
from runner.stages.contract import Class
from runner.store.collect import collect
from runner.store.locks import Lock, is_held
from runner.store.store import Store
from runner.verify.prove import prove
from runner.verify.run import open_run
from tests.chain import ROOT

SURROUNDINGS = Surroundings(
    environments={},
    tools={},
    platform={"name": "cpu-test", "threads": 1, "device": "cpu"},
    files={},
)


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes of this file have none whose memory could be planned."""
    monkeypatch.setattr("runner.execution.record._planned_memory", lambda _: {})


def recipe(folder: Path, **settings: Any) -> Any:
    return SimpleNamespace(
        shrink=None,
        given=None,
        name="tiny",
        source=SimpleNamespace(path=folder / "tiny.yaml", bases=(), overrides={}),
        folder=folder,
        project_root=folder,
        resolved=lambda: {"settings": settings},
        **settings,
    )


def stage(name: str, run: Any, *needs: str, **facts: Any) -> Any:
    defaults = {
        "NAME": name,
        "VERSION": 1,
        "OUTPUTS": {"*.txt": Class.PORTABLE},
        "NEEDS": needs,
        "ENVIRONMENT": None,
        "TOOLS": (),
        "DEVICE": False,
        "wanted": lambda recipe: True,
        "key_inputs": lambda recipe, upstream: {
            "own": getattr(recipe, name, None),
            **{need: upstream[need].digest() for need in upstream},
        },
        "run": run,
    }
    return SimpleNamespace(**(defaults | facts))


def write(name: str, text: str) -> Any:
    def run(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
        (folder / f"{name}.txt").write_text(text.format(r=recipe))
        context.measure("size", len(text))

    return run


def execution(folder: Path, stages: list[Any], **settings: Any) -> Execution:
    return Execution(
        recipe=recipe(folder, **settings),
        stages=stages,
        surroundings=SURROUNDINGS,
        store=Store(folder / "store"),
        run=RunFolder(folder / "runs" / "tiny"),
        cache=folder / "cache",
        wait=False,
    )


def actions(run: Execution) -> list[str]:
    return [result.action for result in run.execute()]


FIRST = stage("first", write("first", "{r.first}"))
SECOND = stage("second", write("second", "fixed"), "first")
THIRD = stage("third", write("third", "fixed"), "second")


def test_stages_run_once_and_are_reused_after(tmp_path: Path) -> None:
    assert actions(execution(tmp_path, [FIRST, SECOND], first=1)) == ["run", "run"]
    assert actions(execution(tmp_path, [FIRST, SECOND], first=1)) == ["reuse", "reuse"]


def test_equal_bytes_cut_the_chain_off_early(tmp_path: Path) -> None:
    chain = [FIRST, SECOND, THIRD]
    actions(execution(tmp_path, chain, first=1))
    assert actions(execution(tmp_path, chain, first=2)) == ["run", "run", "reuse"]


def test_equal_runs_have_equal_manifests(tmp_path: Path) -> None:
    manifests = []
    for name in ("a", "b"):
        run = execution(tmp_path / name, [FIRST, SECOND], first=1)
        run.execute()
        manifests.append((run.run.path / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


def test_a_failed_stage_leaves_no_manifest_and_says_so(tmp_path: Path) -> None:
    def fail(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
        (folder / "half.txt").write_text("half")
        raise StageFailed("it broke", hint="mend it")

    run = execution(tmp_path, [FIRST, stage("second", fail, "first")], first=1)
    with pytest.raises(StageFailed) as caught:
        run.execute()
    assert caught.value.stage == "second"
    record = json.loads((run.run.path / "run.json").read_text())
    assert record["state"] == "failed"
    assert record["error"]["message"] == "it broke"
    assert not (run.run.path / "manifest.json").exists()
    assert latest_run(run.run.path.parent) is None
    assert not (tmp_path / "store" / "second").exists()


def test_machines_that_cannot_meet_are_in_the_record(tmp_path: Path) -> None:
    def nowhere() -> Any:
        return First(("192.0.2.7", 29400), 2, "", print, lambda: None)

    run = execution(tmp_path, [FIRST], first=1)
    run.open_machines, run.command = nowhere, ("recipe", "run", "x y.yaml")
    with pytest.raises(MachineCannot):
        run.execute()
    found = read(run.run.path)
    assert (found.state, found.record["error"]["code"]) == ("failed", "E379")
    assert command_of(found.record) == "recipe run 'x y.yaml'"


def test_a_program_that_fails_is_a_failed_stage_with_its_last_words(tmp_path: Path) -> None:
    def run(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
        context.run_program([sys.executable, "-c", "raise SystemExit('no such luck')"], log="luck")

    failing = execution(tmp_path, [stage("first", run)], first=1)
    with pytest.raises(StageFailed, match="no such luck") as caught:
        failing.execute()
    assert Path(caught.value.log).is_file()


def test_measures_are_in_the_record_and_not_in_the_manifest(tmp_path: Path) -> None:
    run = execution(tmp_path, [SECOND])
    run.execute()
    record = json.loads((run.run.path / "run.json").read_text())
    assert record["stages"][0]["measures"] == {"size": 5}
    assert record["hardware"]["cpus"] >= 1
    assert 'size": 5,' not in (run.run.path / "manifest.json").read_text().replace('"size": 5', "")


def test_a_busy_key_exits_6_when_told_not_to_wait(tmp_path: Path) -> None:
    other = execution(tmp_path, [FIRST], first=1)
    other.execute()
    key = other.results[0].key
    with Store(tmp_path / "store").lock("first", key), pytest.raises(Busy) as caught:
        execution(tmp_path, [FIRST], first=1).execute()
    assert caught.value.exit_code == 6


def test_who_has_the_device_is_told_to_whoever_asks_meanwhile(tmp_path: Path) -> None:
    run = execution(tmp_path, [stage("train", write("train", "x"), DEVICE=True)])
    run.wait, said = True, []
    run.say = said.append

    def waits() -> list[Any]:
        return [each for each in run.events.since(0) if each["event"] == "waiting"]

    with ThreadPoolExecutor(1) as pool:
        with Lock(tmp_path / "cache" / "locks" / "device-cpu.lock", "the cpu"):
            done = pool.submit(run.execute)
            while not waits():
                assert not done.done()
            assert read(run.run.path).alive
        assert [result.action for result in done.result(60)] == ["run"]
    (event,) = [each for each in read_events(run.run.events)[0] if each["event"] == "waiting"]
    assert event["for"] == "the device"
    assert event["holder"].startswith(f"process {os.getpid()} (")
    assert said == [f"waiting for the device, held by {event['holder']}"]


PLAN: dict[str, Any] = {"spec": {}}


class Together:
    """Machines with a store and a cache of their own, which train one recipe."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(meeting, "TRY_AGAIN_SECONDS", 0.0)
        monkeypatch.setattr(meeting, "TAKE_AGAIN_SECONDS", (0.0, 0.1))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = ("127.0.0.1", int(probe.getsockname()[1]))
        self.folder, self.stopped = folder, threading.Event()
        self.said: dict[str, list[str]] = {}
        self.held: list[tuple[str, int, bool]] = []  # machine, locks, is its device taken?

    def poll(self) -> None:
        if self.stopped.is_set():
            raise Interrupted(signal.SIGINT)

    @contextlib.contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Of threads that end when the test fails."""
        with ThreadPoolExecutor() as pool:
            try:
                yield pool
            except BaseException:
                self.stopped.set()
                raise

    def run(self, name: str, *, first: bool) -> Execution:
        """What one machine does; `.said` has what it says."""

        def train(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
            with contexts._told_how_it_ends(context.machines):
                context.machines.begin(PLAN, context.turn)
                self.held.append((name, len(context.lock_fds), is_held(self.device(name))))
                while first and not all(context.machines._links.values()):
                    context.machines.poll()  # as a training ends: the other one has ended, too
                (folder / "train.txt").write_text("trained")

        trained = stage("train", train, DEVICE=True, resumable=lambda scratch: False)
        made = execution(self.folder / name, [trained] if first else [FIRST], first=1)
        made.wait, made.on_poll = True, self.poll
        said: list[str] = []
        made.say = said.append
        self.said[name] = said
        if first:
            made.open_machines = lambda: First(self.address, 2, "join", said.append, self.poll)
        else:
            made.open_machines = lambda: Other(self.address, said.append, self.poll)
            made.afterwards = lambda run, known: run.take_part(trained, known)
        return made

    def device(self, name: str) -> Path:
        return self.folder / name / "cache" / "locks" / "device-cpu.lock"

    def lock_of_the_key(self, name: str) -> Path:
        (found,) = (self.folder / name / "store" / ".locks").glob("train-*.lock")
        return found


@pytest.fixture
def together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Together:
    return Together(tmp_path, monkeypatch)


def until(holds: Callable[[], bool], *running: Future[Any]) -> None:
    """Wait for what a thread brings about, as long as it takes."""
    while not holds():
        assert not any(each.done() for each in running)
        time.sleep(0.01)


def test_machines_have_key_and_device_when_all_are_here_and_not_before(together: Together) -> None:
    with together.pool() as pool:
        first = together.run("a", first=True)
        running = pool.submit(first.execute)
        until(lambda: bool(together.said["a"]), running)
        assert together.said["a"] == ["waiting for 1 more; on each: join"]
        assert not is_held(together.device("a"))
        assert not is_held(together.lock_of_the_key("a"))
        collect(first.store, dry_run=False)  # harms nobody who waits
        with Lock(together.device("a"), "the cpu"):
            other = together.run("b", first=False)
            joined = pool.submit(other.execute)
            words = "the first machine waits for the device, held by process"
            until(lambda: words in "".join(together.said["b"]), running, joined)
            waiting = [e for e in first.events.since(0) if e["event"] == "waiting"]
            assert [each["for"] for each in waiting] == ["the device"]
            assert not is_held(together.device("b"))
        assert [result.action for result in running.result(60)] == ["run"]
        joined.result(60)
    assert sorted(together.held) == [("a", 2, True), ("b", 2, True)]
    assert not is_held(together.device("a"))
    assert not is_held(together.device("b"))
    states = [e["state"] for e in read_events(first.run.events)[0] if e["event"] == "stage"]
    assert states == ["start", "start", "done"]  # the second one ends the wait
    assert not list((together.folder / "b" / "store").glob("train/*"))


def test_what_another_run_has_trained_while_machines_were_waited_for_is_reused(
    together: Together,
) -> None:
    with together.pool() as pool:
        running = pool.submit(together.run("a", first=True).execute)
        until(lambda: bool(together.said["a"]), running)
        alone = stage("train", write("train", "trained"), DEVICE=True)
        assert actions(execution(together.folder / "a", [alone], first=1)) == ["run"]
        joined = pool.submit(together.run("b", first=False).execute)
        assert [result.action for result in running.result(60)] == ["reuse"]
        words = "another run there has trained the same meanwhile"
        until(lambda: words in "".join(together.said["b"]), joined)
        together.stopped.set()
        with pytest.raises(Interrupted):
            joined.result(60)
    assert together.held == []
    assert not is_held(together.device("b"))


def test_a_run_that_is_stopped_while_it_waits_for_machines_touches_no_other_ones_work(
    together: Together,
) -> None:
    first = together.run("a", first=True)
    with together.pool() as pool:
        running = pool.submit(first.execute)
        until(lambda: bool(together.said["a"]), running)
        key = together.lock_of_the_key("a").stem.removeprefix("train-")
        with first.store.lock("train", key):
            place = first.store.staging("train", key)
            (place.out / "half.txt").write_text("of another run")
            together.stopped.set()
            with pytest.raises(Interrupted):
                running.result(60)
            assert (place.out / "half.txt").is_file()
    events = [each["state"] for each in read_events(first.run.events)[0]]
    assert events == ["start", "interrupted"]


def test_a_stage_that_was_interrupted_has_not_failed(tmp_path: Path) -> None:
    def stopped(*_: Any) -> None:
        raise Interrupted(signal.SIGINT)

    run = execution(tmp_path, [stage("first", stopped)])
    with pytest.raises(Interrupted):
        run.execute()
    events = read_events(run.run.events)[0]
    assert [each["state"] for each in events] == ["start", "interrupted"]


KILLED = """
import sys; sys.path.insert(0, {root!r})
from collections.abc import Callable
from pathlib import Path
from tests.integration.test_execution import execution, stage
def run(recipe, inputs, folder, context):
    context.run_program([sys.executable, "-c", {child!r}], log="child")
execution(Path({folder!r}), [stage("first", run, DEVICE=True)], first=1).execute()
"""


def test_a_killed_runner_takes_its_program_along_and_the_next_run_works(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = KILLED.format(root=str(ROOT), child=child, folder=str(tmp_path))
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    pid = int(mark.read_text())
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
        assert time.monotonic() < deadline, "the program outlived its runner"
        time.sleep(0.05)
    assert actions(execution(tmp_path, [FIRST], first=1)) == ["run"]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so(tmp_path: Path, number: int) -> None:
    def run(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
        code = f"import os, time; os.kill({os.getpid()}, {int(number)}); time.sleep(60)"
        context.run_program([sys.executable, "-c", code], log="child")

    interrupted = execution(tmp_path, [stage("first", run)], first=1)
    with pytest.raises(Interrupted) as caught:
        interrupted.execute()
    assert caught.value.exit_code == 128 + number
    record = json.loads((interrupted.run.path / "run.json").read_text())
    assert record["state"] == "interrupted"


def _interrupted(context: Any) -> None:
    raise Interrupted(signal.SIGINT)


def _failed(context: Any) -> None:
    raise StageFailed("it broke")


def _killed(context: Any) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    context.run_program([sys.executable, "-c", code], log="child")


@pytest.mark.parametrize("end", [_interrupted, _failed, _killed])
@pytest.mark.parametrize("goes_on", [False, True])
def test_only_a_stage_that_can_go_on_leaves_its_scratch(
    tmp_path: Path, goes_on: bool, end: Callable[[Any], None]
) -> None:
    def run(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
        (context.scratch / "rows").mkdir()
        (context.scratch / "rows" / "train.rows").write_text("waiting")
        end(context)

    facts = {"resumable": lambda scratch: False} if goes_on else {}
    with pytest.raises((Interrupted, StageFailed)):
        execution(tmp_path, [stage("first", run, **facts)]).execute()
    left = [path.name for path in (tmp_path / "store" / ".staging").rglob("*") if path.is_file()]
    assert left == (["train.rows"] if goes_on else [])


# --- going on from a checkpoint


def resuming(proved: bool) -> Any:
    """A stage that is interrupted at its first try, and goes on at the second."""

    def run(recipe: Any, inputs: Any, folder: Path, context: Any) -> None:
        checkpoint = context.scratch / "checkpoint"
        if not checkpoint.exists():
            checkpoint.write_text("half")
            raise Interrupted(signal.SIGINT)
        (folder / "train.txt").write_text("whole")

    return stage(
        "train",
        run,
        "prepare",
        resumable=lambda scratch: (scratch / "checkpoint").exists(),
        resume_is_proved=lambda recipe: proved,
    )


@pytest.mark.parametrize("proved", [True, False])
def test_what_is_not_proved_to_resume_is_kept_for_its_run_alone(
    tmp_path: Path, proved: bool
) -> None:
    prepare, merge = (
        stage("prepare", write("prepare", "a")),
        stage("merge", write("merge", "b"), "train"),
    )
    chain = [prepare, resuming(proved), merge]
    with pytest.raises(Interrupted):
        execution(tmp_path, chain).execute()
    run = execution(tmp_path, chain)
    assert actions(run) == ["reuse", "resume", "run"]
    finished = open_run(run.run.path)
    # Another run of the same recipe does not get it, and computes its own.
    again = execution(
        tmp_path, [prepare, stage("train", write("train", "whole"), "prepare")], first=1
    )
    assert actions(again) == (["reuse", "reuse"] if proved else ["reuse", "run"])
    if proved:
        assert "private" not in finished.stage("train")["material"]
        return
    assert finished.stage("train")["material"]["private"] == run.run.id
    assert "kept for this run alone" in summary_text(run.run.path)
    proof = prove(
        finished, "train", run.store, tmp_path, on_file=lambda *_: None, open_display=_not_opened
    )
    assert not proof.holds
    assert "NOT claimed: train went on from a checkpoint" in "\n".join(as_lines(proof))
    # `recipe gc` keeps it as long as its run is there.
    key = finished.stage("train")["key"]
    collect(run.store, dry_run=False)
    assert run.store.lookup("train", key) is not None
    assert not any((tmp_path / "store" / ".staging").rglob("checkpoint"))


def _not_opened(*_: Any) -> Any:
    raise AssertionError("nothing is derived again")


def summary_text(folder: Path) -> str:
    output = io.StringIO()
    render_summary(summary(folder), output)
    return output.getvalue()
