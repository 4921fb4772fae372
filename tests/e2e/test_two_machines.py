"""One training by two machines: two network namespaces with a wire, one command on each of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.store.locks import Lock, is_held
from tests.chain import Checkout
from tests.tiny_chain import set_steps
from tests.two_machines import SERVER, TwoMachines, two_machines

RENDEZVOUS = f"{SERVER}:29400"
STEPS = 60


@dataclass(frozen=True)
class Machine:
    """A checkout with store, cache and home of its own, and the way into its network."""

    checkout: Checkout
    enter: Callable[..., list[str]]

    def start(self, *words: str) -> Started:
        """Start `recipe ...` there."""
        log = self.checkout.folder.parent / f"said-{time.monotonic_ns()}"
        with log.open("w") as out:
            process = subprocess.Popen(
                self.enter(sys.executable, "-m", "runner", *words),
                cwd=self.checkout.folder,
                env=self.checkout.env,
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )
        return Started(process, log)

    def device(self) -> Path:
        return self.checkout.folder.parent / "cache" / "locks" / "device-cpu.lock"

    def latest(self) -> Path:
        return (self.checkout.folder / "runs/tiny/latest").resolve()

    def steps(self) -> list[int]:
        """That the newest run has reported."""
        newest = max((self.checkout.folder / "runs/tiny").glob("2*"))
        lines = (newest / "events.jsonl").read_bytes().split(b"\n")[:-1]
        events = [json.loads(line) for line in lines]
        return [each["step"] for each in events if each["event"] == "progress" and "loss" in each]


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[str]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str) -> None:
        while not re.search(pattern, self.said()):
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)

    def ended(self) -> tuple[int, str]:
        """Exit code, and all that was said."""
        return self.process.wait(), self.said()

    def power_off(self) -> None:
        """Everything that it started is gone at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while processes_with(str(self.log.parent)):  # their supervisor has ended them
            time.sleep(0.05)


def processes_with(word: str) -> list[str]:
    """Process ids whose command line has `word` in it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in os.fsdecode((place / "cmdline").read_bytes()):
                found.append(place.name)
    return found


@pytest.fixture(scope="module")
def both(
    make_tiny: Callable[[Path], Checkout],
    shared_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that have the same recipe, model and rows."""
    with two_machines() as wired:
        yield tuple(  # type: ignore[misc]
            Machine(own_cache(make_tiny(tmp_path_factory.mktemp(name)), shared_cache), enter)
            for name, enter in zip(("first", "second"), entrances(wired), strict=True)
        )


def entrances(wired: TwoMachines) -> list[Callable[..., list[str]]]:
    return [wired.on_server, wired.on_other]


def own_cache(checkout: Checkout, shared: Path) -> Checkout:
    """With locks of its own: two machines do not take turns. Environments are the shared ones."""
    cache = checkout.folder.parent / "cache"
    cache.mkdir()
    for name in ("environments", "tools", "uv", "pycache"):
        (shared / name).mkdir(exist_ok=True)
        (cache / name).symlink_to(shared / name)
    checkout.env["SPARK_RECIPES_CACHE"] = str(cache)
    checkout.env["SPARK_RECIPES_STORE"] = str(cache / "store")
    set_steps(checkout, STEPS)
    text = (checkout.folder / "tiny.yaml").read_text()
    text = text[: text.index("evaluate:")].replace("save_steps: 5", "save_steps: 2") + "merge: {}\n"
    (checkout.folder / "tiny.yaml").write_text(text)
    return checkout


def test_two_machines_train_one_model_and_a_lost_one_is_named_and_comes_back(
    both: tuple[Machine, Machine],
) -> None:
    first, second = both
    running = first.start("run", "tiny.yaml", "--nodes", "2", "--rendezvous", RENDEZVOUS)
    running.wait_for("waiting for 1 more")
    assert not is_held(first.device())  # whoever wants to train there can
    join = re.search(r"recipe (join .*)", running.said())
    assert join is not None
    command = join[1].split()
    assert command == ["join", "tiny.yaml", "--set", "train.nodes=2", RENDEZVOUS]

    # --- another recipe is refused before anything is trained, and the first machine waits on
    other = second.start(*command, "--set", "train.learning_rate=0.1")
    code, said = other.ended()
    assert code == 1
    assert "error[E378]" in said
    assert "train: learning_rate: 0.0002 on the first machine, 0.1 here" in said
    running.wait_for("does not train the same")
    assert running.process.poll() is None

    # --- the second machine is lost in mid-run
    joined = second.start(*command)
    while not first.steps() or first.steps()[-1] < 3:
        assert running.process.poll() is None, running.said()
        time.sleep(0.02)
    joined.power_off()
    code, said = running.ended()
    assert code == 1
    assert "error[E377]: machine 2 (10.98.76.2) was lost" in said
    assert "run the same command again on every machine" in said
    reached = first.steps()[-1]
    assert reached < STEPS

    # --- both type the same commands again
    # --- while the first machine's device is busy: nobody holds the other one's meanwhile
    with Lock(first.device(), "the cpu"):
        running = first.start("run", "tiny.yaml", "--nodes", "2", "--rendezvous", RENDEZVOUS)
        joined = second.start(*command)
        words = r"the first machine waits for the device, held by process \d+"
        joined.wait_for(words)
        running.wait_for(r"waiting for the device, held by process \d+")
        assert not is_held(second.device())
    code, said = running.ended()
    assert code == 0, said
    code, said = joined.ended()
    assert code == 0, said
    assert "done: the first machine has what was trained" in said
    assert first.steps()[0] > 2  # not from the beginning
    assert first.steps()[-1] == STEPS
    assert len((first.latest() / "trace.jsonl").read_bytes().splitlines()) == STEPS
    assert (first.latest() / "adapter/adapter_model.safetensors").is_file()
    assert (first.latest() / "merged/model/model.safetensors").is_file()
    assert not (second.latest() / "adapter").exists()
    assert not list((second.checkout.folder.parent / "cache/store/train").glob("*/manifest*"))


def test_where_to_meet_has_to_be_said(both: tuple[Machine, Machine]) -> None:
    first, second = both
    changed = ("--set", "seed=3", "--nodes", "2")
    code, said = first.start("run", "tiny.yaml", *changed).ended()
    assert code == 2
    assert "error[E952]" in said
    address = ("--rendezvous", "192.0.2.7:29400")
    code, said = first.start("run", "tiny.yaml", *changed, *address).ended()
    assert code == 4
    assert "error[E379]" in said
    listed = json.loads(first.checkout.recipe("ls", "--format", "json").stdout)["runs"]
    assert [(run["state"], run["error"]["code"]) for run in listed[-1:]] == [("failed", "E379")]
    code, said = second.start("join", "tiny.yaml", RENDEZVOUS).ended()
    assert code == 2
    assert "error[E953]" in said
