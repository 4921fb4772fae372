"""How a stage's script is started several times: the program, the threads, and who is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import StageFailed, UsageError
from runner.execution import context as contexts
from runner.execution.context import StageContext
from runner.execution.events import EventLog
from runner.execution.machines.contract import Turn
from runner.system import platforms, process
from runner.system.process import ChildResult

SPEC = {"settings": {"seed": 1}}


class Others:
    """The other machines of a training, as a test has them."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.ended: list[BaseException | None] = []
        self.reason: StageFailed | None = None

    def begin(self, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        self.asked.append(plan)
        address = {"address": "127.0.0.1", "port": 5, "own_address": "127.0.0.1"}
        return {"machine": 1, "machines": 2, **address}

    def poll(self) -> None:
        """All are there."""

    def blame(self) -> None:
        if self.reason is not None:
            raise self.reason

    def end(self, error: BaseException | None) -> None:
        self.ended.append(error)


class Started:
    """What would have been run, and how it ends."""

    argv: list[str]
    env: Mapping[str, str]
    spec: dict[str, Any]
    status = 0

    def run_child(self, argv: list[str], *, env: Mapping[str, str], **more: Any) -> ChildResult:
        self.argv, self.env = argv, env
        self.spec = json.loads(Path(argv[-1]).read_text())
        log = more["stderr"]
        return ChildResult(
            tuple(argv), self.status, None, b"", log, 0.0, 0, False, False, leftover=0
        )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    made = Started()
    monkeypatch.setattr(process, "run_child", made.run_child)
    monkeypatch.setattr(platforms, "compute_threads", lambda: 5)
    monkeypatch.setattr(
        contexts.environments, "ensure", lambda *_: SimpleNamespace(python=Path("python"))
    )
    return made


@pytest.fixture
def context(tmp_path: Path, started: Started) -> Iterator[StageContext]:
    events = EventLog(tmp_path / "events.jsonl")
    yield StageContext(
        stage=SimpleNamespace(NAME="train", DEVICE=False, ENVIRONMENT="native"),  # type: ignore[arg-type]
        project_root=tmp_path,
        recipe_folder=tmp_path,
        log_folder=tmp_path,
        scratch=tmp_path,
        cache=tmp_path,
        platform={},
        events=events,
        machines=Others(),
        material={"stage": "train"},
    )
    events.close()


def others(context: StageContext) -> Others:
    assert isinstance(context.machines, Others)
    return context.machines


def run(context: StageContext, **how: int) -> None:
    context.run_script("train_shared", SPEC, folder=context.scratch, **how)  # type: ignore[arg-type]


def test_one_process_is_started_as_ever(context: StageContext, started: Started) -> None:
    run(context)
    assert started.argv[2] == "train_shared"
    assert "processes" not in started.spec["where"]
    assert started.env["OMP_NUM_THREADS"] == "5"
    assert others(context).asked == others(context).ended == []


@pytest.mark.parametrize(("processes", "threads"), [(2, "2"), (5, "1"), (9, "1")])
def test_processes_share_the_threads_of_the_machine(
    context: StageContext, started: Started, processes: int, threads: str
) -> None:
    run(context, processes=processes)
    assert started.argv[2] == "start_processes"
    assert started.spec["where"]["processes"] == {
        "script": "train_shared",
        "local": processes,
        "machine": 0,
        "machines": 1,
    }
    assert started.env["OMP_NUM_THREADS"] == threads
    assert started.spec["hashed"]["env"]["OMP_NUM_THREADS"] == threads
    assert others(context).asked == others(context).ended == []


def test_other_machines_are_waited_for_and_told_of_the_end(
    context: StageContext, started: Started
) -> None:
    run(context, machines=2)
    (plan,) = others(context).asked
    assert plan["material"] == {"stage": "train"}
    assert plan["spec"]["settings"] == {"seed": 1}
    assert started.spec["where"]["processes"]["machine"] == 1
    assert started.env["GLOO_SOCKET_IFNAME"] == started.env["NCCL_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in started.spec["hashed"]["env"]
    assert others(context).ended == [None]


def test_a_failure_without_a_cause_is_that_of_the_machine_that_has_one(
    context: StageContext, started: Started
) -> None:
    started.status = 1
    others(context).reason = StageFailed("machine 2 was lost", code="E377")
    with pytest.raises(StageFailed, match="machine 2 was lost"):
        run(context, machines=2)
    assert others(context).ended == [others(context).reason]


def test_a_failure_with_a_cause_is_this_machines_own(
    context: StageContext, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    others(context).reason = StageFailed("machine 2 was lost", code="E377")
    own = StageFailed("the GPU has too little memory", code="E509")
    monkeypatch.setattr(StageContext, "_failure", lambda *_: own)
    started.status = 1
    with pytest.raises(StageFailed, match="too little memory"):
        run(context, machines=2)
    assert others(context).ended == [own]


def test_without_an_address_nobody_can_be_waited_for(context: StageContext) -> None:
    context.machines = contexts.NoMachines()
    with pytest.raises(UsageError) as refused:
        run(context, machines=2)
    assert refused.value.code == "E952"
