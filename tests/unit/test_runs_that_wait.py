"""A run that waits, for machines or for what another run holds: how it is shown and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.errors import Interrupted
from runner.execution.machines.contract import NoTurn
from runner.execution.machines.meeting import First
from runner.execution.record import _error
from runner.runs import ending
from runner.runs.ending import stop
from runner.runs.known import KnownRun, read
from runner.runs.progress import stage_at_work
from runner.scripts.training.stopping import STOP
from runner.store.store import Store
from tests.chain import ROOT
from tests.unit.test_runs_shown import BEGAN, KEY, WAITS, a_run, event

MISSING = "1 more; on each: recipe join x.yaml 10.0.0.1:29400"
ALONE = {**event("train", "waiting"), "for": MISSING}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Process:
    """Of a run that ends when it is told to."""

    def __init__(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[int] = []

        def kill(pid: int, number: int) -> None:
            self.told.append(number)
            run.write_record({"state": "interrupted"})
            run.close()

        monkeypatch.setattr(ending.os, "kill", kill)
        monkeypatch.setattr(ending, "_process", lambda run: 1)
        monkeypatch.setattr(ending, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("waiting", [ALONE, WAITS])
def test_a_training_that_waits_has_no_step_to_end_behind(
    waiting: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(project, BEGAN, waiting)
    store = Store(project / "store")
    scratch = store.staging("train", KEY).scratch
    process, said = Process(run, monkeypatch), list[str]()
    assert stop(read(run.path), store, now=False, say=said.append).state == "interrupted"
    assert process.told == [signal.SIGINT]
    assert not (scratch / STOP).exists()
    assert said[0] == f"ending runs/x/{run.id}"
    assert said[1].startswith(f"it waits for {waiting['for']}")
    assert said[1].endswith(": it ends at once")


def test_a_training_whose_wait_is_over_is_asked_to_end_behind_its_step(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(project, BEGAN, ALONE, BEGAN)
    store = Store(project / "store")
    scratch = store.staging("train", KEY).scratch
    process = Process(run, monkeypatch)

    def asked(seconds: float) -> None:
        assert (scratch / STOP).exists()
        run.write_record({"state": "interrupted"})
        run.close()

    monkeypatch.setattr(ending.time, "sleep", asked)
    said: list[str] = []
    stop(read(run.path), store, now=False, say=said.append)
    assert process.told == []
    assert "behind the step at hand" in said[-1]


def test_a_run_that_waits_for_machines_says_how_they_join(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(project, BEGAN, ALONE)
    for command in ("ls", "status"):
        assert main([command]) == 0
        assert f"train: waiting for {MISSING}" in capsys.readouterr().out
    run.close()
    assert stage_at_work([BEGAN, ALONE]) is None
    assert stage_at_work([BEGAN, ALONE, BEGAN]) == BEGAN


def test_the_first_machine_says_in_the_events_who_is_missing() -> None:
    class Asked(NoTurn):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def waits(self, what: str) -> None:
            self.heard.append(what)

    def poll() -> None:
        raise Interrupted(signal.SIGINT)

    turn = Asked()
    first = First(("127.0.0.1", 0), 3, "recipe join x.yaml", lambda message: None, poll)
    with pytest.raises(Interrupted):
        first.begin({}, turn)
    first.end(None)
    assert turn.heard == ["2 more; on each: recipe join x.yaml"]


def test_a_key_that_ends_a_run_is_an_interruption_as_any_other() -> None:
    assert _error(KeyboardInterrupt()) == {
        "code": "E130",
        "message": "interrupted",
        "hint": Interrupted(signal.SIGINT).hint,
    }


def test_stop_is_told_which_run_it_is(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(project / "store"))
    run = a_run(project, WAITS)
    Process(run, monkeypatch)
    assert main(["stop"]) == 0
    assert f"runs/x/{run.id}" in capsys.readouterr().err
    known: KnownRun = read(run.path)
    assert not known.alive


def test_a_run_that_a_script_puts_into_the_background_hears_who_stops_it() -> None:
    """A shell without job control has its `&` ignore SIGINT, and children inherit that."""
    code = """
import os, signal
from runner.runs.background import Child, split
signal.signal(signal.SIGINT, signal.SIG_IGN)
found = split(["recipe", "run", "x.yaml"])
if isinstance(found, Child):
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    os.write(found.writer, b"hears" if hears else b"ignores")
    os._exit(0)
print(found.wait())
"""
    env = {name: value for name, value in os.environ.items() if name != "SPARK_RECIPES_IMAGE"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.stdout == "hears\n", done.stderr
