"""Two users of one machine whose group shares a cache; neither sees into the other's home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chain import Checkout
from tests.e2e.test_bad_luck import manifest, training_step, wait_for
from tests.other_machine import RECIPE, OtherMachine, other_machine
from tests.tiny_chain import set_steps, write_tiny_chain

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
ANN, BEN, TEAM, NOT_IN_IT = 4001, 4002, 4100, 4003


@dataclass(frozen=True)
class User:
    """Somebody with a project of their own; `cache` is the team's."""

    machine: OtherMachine
    cache: Path

    @property
    def project(self) -> Checkout:
        return Checkout(self.machine.folder, {}, self.machine.folder.parent / "home")

    def recipe(self, *words: str, **env: str) -> tuple[int, str]:
        """Exit code and all that was said."""
        ended = self.machine.recipe(*words, **{"SPARK_RECIPES_CACHE": str(self.cache)} | env)
        return ended.returncode, ended.stdout + ended.stderr

    def set_steps(self, steps: int) -> None:
        set_steps(self.project, steps)

    def actions(self) -> dict[str, str]:
        record = json.loads((self.machine.folder / "runs/tiny/latest/run.json").read_bytes())
        return {each["name"]: each["action"] for each in record["stages"]}


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As docs/long-runs.md has it made."""
    with other_machine(Path("/"), user=0) as base:
        folder = base.folder.parent / "team"
        command = ["install", "-d", "-g", str(TEAM), "-m", "2770", str(folder)]
        subprocess.run(command, check=True)
        yield folder


@pytest.fixture
def ann(cache: Path, shared_cache: Path) -> Iterator[User]:
    yield from _user(ANN, (TEAM,), cache, shared_cache)


@pytest.fixture
def ben(cache: Path, shared_cache: Path) -> Iterator[User]:
    yield from _user(BEN, (TEAM,), cache, shared_cache)


def _user(number: int, groups: tuple[int, ...], cache: Path, prebuilt: Path) -> Iterator[User]:
    with other_machine(prebuilt, number, groups, umask=0o077) as machine:
        user = User(machine, cache)
        write_tiny_chain(user.project)
        for path in (machine.folder.parent, *machine.folder.parent.rglob("*")):
            os.chown(path, number, number)
        machine.folder.parent.chmod(0o700)
        yield user


def test_what_one_has_made_the_other_uses_and_neither_takes_it_away(ann: User, ben: User) -> None:
    code, words = ann.recipe("run", "tiny.yaml")
    assert code == 0, words
    code, words = ben.recipe("run", "tiny.yaml")
    assert code == 0, words
    assert set(ben.actions().values()) == {"reuse"}
    assert manifest(ben.project) == manifest(ann.project)
    rights = {oct(stat.S_IMODE(path.stat().st_mode)) for path in _folders(ann.cache)}
    assert rights == {"0o2770"}

    shutil.rmtree(ben.machine.folder / "runs")
    code, words = ben.recipe("gc")
    assert code == 0, words
    code, words = ann.recipe("run", "tiny.yaml")
    assert (code, "up to date" in words) == (0, True), words

    shutil.rmtree(ann.machine.folder / "runs")
    code, words = ann.recipe("gc")  # the last who used them; half of it is not hers
    assert code == 0, words
    assert list((ann.cache / "store").glob("[a-z]*/*")) == []


def test_what_one_began_the_other_ends_with_the_same_bytes(ann: User, ben: User) -> None:
    for user in (ann, ben):
        user.set_steps(24)
    process = ann.machine.start(*RECIPE, "run", "tiny.yaml", SPARK_RECIPES_CACHE=str(ann.cache))
    wait_for(lambda: training_step(ann.project, 8), "step 8")
    process.kill()
    process.communicate()
    code, words = ben.recipe("run", "tiny.yaml")  # waits for the last of her processes
    assert code == 0, words
    assert ben.actions()["train"] == "resume"
    code, words = ann.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(ann.project.home / "s"))
    assert code == 0, words
    assert ann.actions()["train"] == "run"
    assert manifest(ann.project) == manifest(ben.project)


def test_they_take_turns_on_the_device(ann: User, ben: User) -> None:
    ann.set_steps(4000)
    process = ann.machine.start(*RECIPE, "run", "tiny.yaml", SPARK_RECIPES_CACHE=str(ann.cache))
    wait_for(lambda: training_step(ann.project, 1), "step 1")
    code, words = ben.recipe("run", "tiny.yaml", "--no-wait")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert (code, str(process.pid) in words) == (6, True), words


def test_who_is_not_of_the_group_is_told(cache: Path, shared_cache: Path) -> None:
    for user in _user(NOT_IN_IT, (), cache, shared_cache):
        code, words = user.recipe("run", "tiny.yaml")
        assert (code, "E411" in words, "Traceback" in words) == (4, True, False), words


def _folders(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_dir()]
