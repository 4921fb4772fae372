"""kill -9 at any moment of a real run: nothing of it lives on, and the next one goes on from there.

The moments are random, from a fixed seed. When a run comes to its end before it is killed, its
manifest is looked at and all is done anew, in an empty store.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.store.locks import Lock, is_held
from tests.chain import Checkout, copy_checkout
from tests.crash_record import Row, write_row
from tests.e2e.conftest import Quickstart
from tests.e2e.test_bad_luck import leftovers, manifest, training_processes, training_step, wait_for
from tests.tiny_chain import set_steps


@dataclass
class Kills:
    """Runs of `recipe` in `checkout`, killed again and again."""

    checkout: Checkout
    recipe: str
    name: str
    expected: bytes
    lost: int = 0

    @property
    def place(self) -> Path:
        return self.checkout.folder.parent

    def run(self, count: int, longest: float, chance: random.Random) -> None:
        """Kill `count` runs, each within `longest` seconds, and let the last one end."""
        killed = 0
        while killed < count:
            runner = self.checkout.start("run", self.recipe)
            try:
                words = runner.communicate(timeout=chance.uniform(0.1, longest))
            except subprocess.TimeoutExpired:
                killed += 1
                self._kill(runner)
            else:
                assert runner.returncode == 0, words
                self._check_done()
                self._begin_anew()
        last = self.checkout.recipe("run", self.recipe)
        assert last.returncode == 0, last.stderr
        self._check_done()

    def _kill(self, runner: subprocess.Popen[str]) -> None:
        kept = self._entries()
        runner.kill()
        runner.communicate()
        # As long as the training lives, its device is locked: looked at between two looks.
        while before := set(training_processes(self.checkout)):
            held = any(map(is_held, self._device_locks()))
            if before & set(training_processes(self.checkout)):
                assert held, "a training lives on, and another one could start beside it"
        wait_for(lambda: not self._processes(), "the end of every process", 30)
        self.lost += len(kept - self._entries())

    def _device_locks(self) -> list[Path]:
        return list((Path(self.checkout.env["SPARK_RECIPES_CACHE"]) / "locks").glob("device-*"))

    def _entries(self) -> set[Path]:
        store = Path(self.checkout.env["SPARK_RECIPES_STORE"])
        return {record.parent for record in store.glob("[a-z]*/*/.stage.json")}

    def _processes(self) -> list[int]:
        """Every process that was told of this place: by its environment, words or folder."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                known = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(self.place) in known and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    def _check_done(self) -> None:
        folder = self.checkout.folder / "runs" / self.name / "latest"
        assert (folder / "manifest.json").read_bytes() == self.expected

    def _begin_anew(self) -> None:
        shutil.rmtree(self.checkout.folder / "runs")
        shutil.rmtree(self.checkout.env["SPARK_RECIPES_STORE"])


def test_eight_kills_of_a_tiny_recipe(tiny: Checkout, tmp_path: Path) -> None:
    set_steps(tiny, 40)
    plain = tiny.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(tmp_path / "undisturbed"))
    assert plain.returncode == 0, plain.stderr
    kills = Kills(tiny, "tiny.yaml", "tiny", manifest(tiny))
    shutil.rmtree(tiny.folder / "runs")
    kills.run(8, 8.0, random.Random(8))
    assert kills.lost == 0
    assert leftovers(tiny) == []


@pytest.mark.full
def test_fifty_kills_of_the_quickstart(
    quickstart: Quickstart, shared_cache: Path, tmp_path: Path
) -> None:
    """50 unless KILLS says otherwise; only all of them are written down."""
    count = int(os.environ.get("KILLS", "50"))
    checkout = copy_checkout(
        tmp_path / "checkout", cache=shared_cache, store=tmp_path / "store", home=tmp_path / "home"
    )
    expected = (quickstart.folder / "manifest.json").read_bytes()
    kills = Kills(checkout, "recipes/quickstart.yaml", "quickstart", expected)
    kills.run(count, 60.0, random.Random(50))
    left = leftovers(checkout)
    assert (kills.lost, left) == (0, [])
    if count == 50:
        row = Row("random moments of the real quickstart", "kill", 50, 50, kills.lost, len(left))
        write_row(row)


def test_the_device_is_locked_until_the_training_of_a_killed_runner_is_dead(
    tiny: Checkout, make_tiny: Callable[[Path], Checkout], tmp_path: Path
) -> None:
    """The supervisor is stopped for a while, so that there is time to look."""
    set_steps(tiny, 4000)
    runner = tiny.start("run", "tiny.yaml")
    wait_for(lambda: training_step(tiny, 3), "step 3")
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    (supervisor,) = map(int, children)
    os.kill(supervisor, signal.SIGSTOP)
    try:
        runner.kill()
        runner.communicate()
        time.sleep(0.5)
        assert training_processes(tiny) != []
        (lock,) = (
            path
            for path in (Path(tiny.env["SPARK_RECIPES_CACHE"]) / "locks").glob("device-*.lock")
            if json.loads(path.read_text())["pid"] == runner.pid
        )
        assert is_held(lock)
        other = make_tiny(tmp_path / "other")
        busy = other.recipe("run", "tiny.yaml", "--no-wait")
        assert busy.returncode == 6
        assert f"process {runner.pid}" in busy.stderr
    finally:
        os.kill(supervisor, signal.SIGCONT)
    with Lock(lock, "the device"):
        assert training_processes(tiny) == []
