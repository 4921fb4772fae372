"""Rows prepared on a Ray cluster of machines with a wire between them, one of which is lost.

The machine that asks has no processor for Ray at first: all the work is done beyond the wire.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.scripts.data.chunks.workers import ADDRESS
from tests.script_runs import PREPARING, ScriptRun, run_script
from tests.two_machines import OTHER, SERVER, TwoMachines, two_machines

PORT = 6379
CHATS = [
    {"instruction": f"Say {n}: {'word ' * (n % 37)}", "output": f"It is {n}."} for n in range(1500)
]
PAIRS = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(600)]


@dataclass
class RayMachines:
    """A cluster, and how its machines are told to run something."""

    machines: TwoMachines
    ray: Path
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, on: Callable[..., list[str]], host: str, *options: str) -> None:
        """One more node, and wait until it is one."""
        number = len(self.started)
        log = self.folder / f"{number}.log"
        command = [str(self.ray), "start", "--block", "--disable-usage-stats"]
        command += ["--object-store-memory=80000000", f"--node-ip-address={host}"]
        # a raylet on a busy machine does not wait for the ports that others choose
        ports = ("dashboard-agent-grpc", "dashboard-agent-listen", "metrics-export")
        ports += ("runtime-env-agent",)
        command += [f"--{name}-port={7000 + 10 * number + n}" for n, name in enumerate(ports)]
        with log.open("wb") as said:
            process = subprocess.Popen(
                on(*command, *options),
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RAY_raylet_start_wait_time_s": "300"},
            )
        self.started.append(process)
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(environment_python: Callable[[str], Path]) -> Iterator[RayMachines]:
    ray = environment_python("ray").with_name("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets need a short path
    try:
        with two_machines() as machines:
            made = RayMachines(machines, ray, folder)
            with killed_afterwards(machines):
                head = ("--head", f"--port={PORT}", "--include-dashboard=false", "--num-cpus=0")
                made.start(machines.on_server, SERVER, *head, f"--temp-dir={folder}")
                made.start(machines.on_other, OTHER, f"--address={SERVER}:{PORT}", "--num-cpus=1")
                yield made
            for each in made.started:
                each.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def killed_afterwards(machines: TwoMachines) -> Iterator[None]:
    try:
        yield
    finally:
        kill_all_on(machines.other)
        kill_all_on(machines.server)


def kill_all_on(machine: int) -> None:
    """Every process on it, but for the one that holds it."""
    here = Path(f"/proc/{machine}/ns/net").readlink()
    for process in Path("/proc").iterdir():
        try:
            if int(process.name) != machine and (process / "ns" / "net").readlink() == here:
                os.kill(int(process.name), signal.SIGKILL)
        except (ValueError, OSError):  # no process, not ours, or gone
            continue


@dataclass(frozen=True)
class Job:
    """What is prepared, by this machine alone or by the cluster."""

    script: str
    rows: list[dict[str, Any]]
    format: str

    def run(self, python: Path, model: Path, folder: Path, **env: str) -> ScriptRun:
        folder.mkdir()
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        described = {"name": "rows.jsonl", "format": self.format, "input": "train-0"}
        hashed = PREPARING | {"train": [described], "fraction": 0.1}
        inputs = {"model": model, "train-0": folder / "rows.jsonl"}
        return run_script(python, self.script, hashed, inputs, folder / "run", **env)


JOBS = [Job("prepare", CHATS, "alpaca"), Job("prepare_preferences", PAIRS, "preference")]


def python_on(command: list[str], python: Path, folder: Path) -> Path:
    """A program that runs the environment's interpreter on a machine."""
    folder.mkdir(exist_ok=True)
    (folder / "python").write_text(f'#!/bin/sh\nexec {" ".join(command)} {python} "$@"\n')
    (folder / "python").chmod(0o755)
    return folder / "python"


def written(run: ScriptRun) -> Mapping[str, bytes]:
    assert run.returncode == 0, run.log
    return {path.name: path.read_bytes() for path in sorted(run.folder.iterdir())}


def test_a_cluster_gives_the_bytes_of_one_machine_also_when_it_loses_one(
    cluster: RayMachines,
    environment_python: Callable[[str], Path],
    tiny: Path,
    tmp_path: Path,
) -> None:
    machines, where, before = cluster.machines, {ADDRESS: f"{SERVER}:{PORT}"}, brought()
    here = python_on(machines.on_server(), environment_python("ray"), tmp_path / "here")
    for job in JOBS:
        alone = job.run(environment_python("data"), tiny, tmp_path / f"{job.script}-alone")
        beyond = job.run(here, tiny, tmp_path / f"{job.script}-beyond", **where)
        assert written(beyond) == written(alone)
        assert beyond.measures == alone.measures
    assert brought() == before

    cluster.start(machines.on_server, SERVER, f"--address={SERVER}:{PORT}", "--num-cpus=1")
    folder = tmp_path / "lost"
    lost: list[ScriptRun] = []
    running = threading.Thread(target=lambda: lost.append(JOBS[0].run(here, tiny, folder, **where)))
    running.start()
    events = folder / "run" / "events.jsonl"
    while running.is_alive() and not (events.exists() and b"progress" in events.read_bytes()):
        time.sleep(0.02)
    kill_all_on(machines.other)
    assert running.is_alive()
    running.join()
    assert written(lost[0]) == written_of(tmp_path / "prepare-alone" / "run" / "out")


def brought() -> set[Path]:
    """What machines have unpacked, and not removed."""
    return set(Path(tempfile.gettempdir()).glob("spark-recipes-????????????????-*"))


def written_of(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_no_cluster_and_no_ray_are_said_at_once(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path: Path
) -> None:
    data = environment_python("data")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        run = JOBS[0].run(data, tiny, tmp_path / "nobody", **{ADDRESS: address})
    assert run.error["code"] == "E372"
    assert address in run.error["message"]
    run = JOBS[0].run(data, tiny, tmp_path / "nowhere", **{ADDRESS: "auto"})
    assert (run.error["code"], run.error["hint"]) == ("E372", f"export {ADDRESS}=HOST:6379")
    with socket.create_server(("127.0.0.1", 0)) as open_:
        address = f"127.0.0.1:{open_.getsockname()[1]}"
        run = JOBS[0].run(data, tiny, tmp_path / "without", **{ADDRESS: address})
    assert run.error["code"] == "E373"
    assert not list((tmp_path / "without" / "run" / "out").iterdir())


# A Ray that is refused, or whose other machine has an older tokenizer.
RAY = """
import os
from ray import data, util

class Task:
    def __init__(self, work): self.work = work
    def options(self, **options): return self
    def remote(self, told): return {**self.work(told), "tokenizers": "0.1"}

def init(**options):
    if os.environ["FAKED"] == "refused":
        raise ConnectionError("no raylet\\non this machine")

def nodes(): return [{"Alive": True, "NodeManagerAddress": "10.0.0.2", "NodeID": "x"}]
def remote(work): return Task(work)
def get(asked, timeout): return asked
def shutdown(): print("left the cluster")
"""


def test_a_machine_that_cannot_take_part_is_named(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path: Path
) -> None:
    for name, text in (
        ("__init__", RAY),
        ("data/__init__", ""),
        ("util/__init__", ""),
        ("util/scheduling_strategies", "def NodeAffinitySchedulingStrategy(*_, **__): return None"),
    ):
        path = tmp_path / "fake" / "ray" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = {}
    with socket.create_server(("127.0.0.1", 0)) as open_:
        address = f"127.0.0.1:{open_.getsockname()[1]}"
        for case in ("refused", "older"):
            env = {ADDRESS: address, "PYTHONPATH": str(tmp_path / "fake"), "FAKED": case}
            found[case] = JOBS[0].run(environment_python("data"), tiny, tmp_path / case, **env)
    refused, older = found["refused"].error, found["older"].error
    assert refused["code"] == "E374"
    assert refused["message"].endswith(f"the Ray cluster at {address}: no raylet on this machine")
    assert f"ray start --address={address}" in refused["hint"]
    assert older["code"] == "E375"
    assert older["message"].startswith("10.0.0.2 has tokenizers 0.1, this machine has ")
    assert "left the cluster" in found["older"].log
