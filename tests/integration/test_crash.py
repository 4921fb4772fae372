"""Nothing is lost to a crash: a whole `recipe run` is damaged at every file operation.

After each fault the store and the runs are looked at, the same command is run again, and its
manifest must be that of a run that nothing disturbed.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.store.locks import Lock, is_held
from runner.system import process
from tests.crash_record import Row, write_row
from tests.crash_scene import (
    Ending,
    Fork,
    Recording,
    Scene,
    wait_until,
)
from tests.faults import MODES, Operation
from tests.small_disk import SmallDisk

SCENES = {"nothing there yet": False, "after an earlier run": True}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, recording: Recording) -> dict[str, Scene]:
    """A scene of every kind, each prepared anew for every round."""
    base = tmp_path_factory.mktemp("scenes")
    return {
        name: Scene(base / name.replace(" ", "-"), recording, earlier)
        for name, earlier in SCENES.items()
    }


@pytest.fixture
def scene(scenes: dict[str, Scene]) -> Scene:
    """A scene in which nothing was run yet."""
    chosen = scenes["nothing there yet"]
    chosen.prepare()
    return chosen


def fits(mode: str, operation: Operation) -> bool:
    """Is this an operation to which it can happen, with a consequence of its own?

    Between two changes of the disk a kill has always the same; a full disk refuses no reading.
    """
    if mode == "kill":
        return operation.changes and operation.name != "fsync"
    return operation.changes or mode == "io-error"


class Rounds:
    """Round after round in one scene with one kind of fault; counts what happened."""

    def __init__(self, scene: Scene, mode: str) -> None:
        self.scene, self.mode = scene, mode
        self.injected = self.survived = 0
        self.lost: list[str] = []
        self.leftovers: list[str] = []
        self.hit: Counter[tuple[str, ...]] = Counter()
        scene.prepare()
        assert scene.run().code == 0
        scene.collect_garbage()
        self.undisturbed = scene.kinds()

    def round(self, due: Callable[[Operation], bool]) -> bool:
        """One fault, and all that must be true after it; False when it never came to it."""
        scene = self.scene
        scene.prepare()
        before = scene.intact()
        scene.recording.forget_computed()
        ending = scene.run(mode=self.mode, due=due)
        self._check_words(ending)
        self._check_reuse(before)
        kept = scene.intact()
        self.lost += [f"{stage} {key}" for stage, key in before - kept]
        scene.check_runs()
        if ending.code == 0:
            scene.check_done()
        again = scene.run()
        assert again.code == 0, again.said
        scene.check_runs()
        scene.check_done()
        if "Everything is up to date" not in again.said:
            self.lost += [f"computed twice: {each}" for each in scene.computed_again(kept)]
        wait_until(lambda: not scene.processes(), "the end of every process")
        scene.collect_garbage()
        scene.check_runs()
        self.leftovers += scene.leftovers(self.undisturbed)
        if ending.noted:
            self.injected += 1
            self.survived += 1
            self.hit[tuple(ending.noted.split("\n"))] += 1
        return bool(ending.noted)

    def _check_reuse(self, before: set[tuple[str, str]]) -> None:
        """What was there is not computed: a fault is no reason to train again."""
        there = {stage for stage, _ in before} - {"merge"}  # the other recipe's has another key
        computed = self.scene.recording.computed("first")
        self.lost += [f"computed once more: {stage}" for stage in computed if stage in there]

    def _check_words(self, ending: Ending) -> None:
        if self.mode == "kill" and ending.noted:
            assert ending.code == -signal.SIGKILL
            return
        assert ending.code in (0, 1, 2, 4), ending.said
        assert "Traceback" not in ending.said
        assert ending.code == 0 or "error[E" in ending.said

    def row(self, what: str) -> Row:
        lost, left = len(self.lost), len(self.leftovers)
        return Row(what, self.mode, self.injected, self.survived, lost, left)


def nth(number: int, mode: str) -> Callable[[Operation], bool]:
    """Is it the Nth operation that fits?"""
    left = number

    def due(operation: Operation) -> bool:
        nonlocal left
        left -= fits(mode, operation)
        return left == 0 and fits(mode, operation)

    return due


def occurrence(number: int, kind: tuple[str, str], scene: Scene) -> Callable[[Operation], bool]:
    """Is it the Nth of its kind?"""
    left = number

    def due(operation: Operation) -> bool:
        nonlocal left
        left -= scene.kind(operation) == kind
        return left == 0 and scene.kind(operation) == kind

    return due


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SCENES)
def test_a_fault_at_every_kind_of_file_operation(
    scenes: dict[str, Scene], name: str, mode: str
) -> None:
    scene = scenes[name]
    rounds = Rounds(scene, mode)
    scene.prepare()
    operations = [each for each in scene.operations() if fits(mode, each)]
    kinds = Counter(map(scene.kind, operations))
    if scene.earlier and mode != "kill":  # beside what any run does
        plain = scenes["nothing there yet"]
        plain.prepare()
        for kind in {plain.kind(each) for each in plain.operations()}:
            if "store/STAGE/KEY" not in kind[1]:
                kinds.pop(kind, None)
    for kind, count in sorted(kinds.items()):
        # What is stored is looked at twice: to plan, and to take it.
        for number in sorted({1, count} if "store/STAGE/KEY" in kind[1] else {1}):
            rounds.round(occurrence(number, kind, scene))
    print(f"\n{name}, {mode}: {rounds.injected} faults at {len(kinds)} kinds of operation,")
    print(f"sampled from {len(operations)}:")
    for (operation, path), count in sorted(rounds.hit.items()):
        print(f"  {count} x {operation:<9} {path}")
    print(rounds.row("sampled"))
    assert (rounds.lost, rounds.leftovers) == ([], [])
    assert set(rounds.hit) == set(kinds)
    assert len(kinds) > (5 if scene.earlier else 50)


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SCENES)
def test_a_fault_at_every_file_operation(scenes: dict[str, Scene], name: str, mode: str) -> None:
    rounds = Rounds(scenes[name], mode)
    number = 1
    while rounds.round(nth(number, mode)):
        number += 1
    assert rounds.injected > 100
    assert (rounds.lost, rounds.leftovers) == ([], [])
    write_row(rounds.row(f"every file operation of a run, {name}"))


# Disks that are really full


def test_a_limit_on_the_size_of_files(scene: Scene) -> None:
    """With every limit the run comes further, and says why it does not come to its end."""
    failed = 0
    for limit in (0, 200, 1000, 4000, 8000, 16_000, 40_000, 80_000):
        limits = (limit, resource.RLIM_INFINITY)
        ending = scene.run(in_fork=lambda at=limits: resource.setrlimit(resource.RLIMIT_FSIZE, at))
        check_refusal(scene, ending, "no space left|size limit")
        failed += 1
    assert failed == 8
    check_success(scene)


@pytest.mark.parametrize("place", ["cache", "cache/store", "project/runs", "."])
def test_a_small_disk_that_grows(scene: Scene, place: str) -> None:
    """A file system of a few pages, which has more room after every failure, until it is enough.

    Every run that fails has a folder of its own with what it could show, hence the doubling.
    """
    kept = scene.root.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(scene.root, kept)

    def job(note: Callable[[str], None]) -> int:
        folder = scene.root / place
        folder.mkdir(parents=True, exist_ok=True)
        size, room, failures = 4096 * 4, 4096 * 4, 0
        if place == ".":  # the inputs lie there too
            size += sum(path.stat().st_size + 8192 for path in kept.rglob("*"))
        disk = SmallDisk(folder, size)
        if place == ".":
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        while (ending := scene.run()).code != 0:
            check_refusal(scene, ending, "no space left|the disk is full")
            failures += 1
            size += room
            room *= 2
            disk.resize(size)
        check_success(scene)
        note(str(failures))
        return 0

    ending = Fork(job).wait(300)
    assert ending.code == 0, ending.said
    assert int(ending.noted) >= 3


def check_refusal(scene: Scene, ending: Ending, words: str) -> None:
    assert ending.code in (1, 4), ending.said
    assert re.search(words, ending.said), ending.said
    assert "Traceback" not in ending.said
    scene.intact()
    scene.check_runs()


def check_success(scene: Scene) -> None:
    """The next run comes to its end, and nothing is left over."""
    ending = scene.run()
    assert ending.code == 0, ending.said
    scene.check_done()
    scene.check_runs()
    wait_until(lambda: not scene.processes(), "the end of every process")
    scene.collect_garbage()
    assert [kind for kind in scene.kinds() if is_litter(kind)] == []


def is_litter(kind: str) -> bool:
    return bool(re.search(r"\.partial|\.staging/|\.trash/|/\.latest", kind))


# Several at once


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("names", [("first",), ("first", "other")], ids=len)
def test_several_at_once_share_the_work(
    scene: Scene, recording: Recording, count: int, names: tuple[str, ...]
) -> None:
    """All succeed with equal manifests, and each stage is computed once, gc or no gc."""
    recording.forget_computed()
    forks = [
        scene.start(names[number % len(names)], before="sleep 0.05") for number in range(count)
    ]
    collections = 0
    while scene.processes() or not collections:
        scene.collect_garbage()
        collections += 1
        time.sleep(0.01)
    endings = [fork.wait() for fork in forks]
    assert [ending.code for ending in endings] == [0] * count, endings
    scene.check_runs()
    manifests = {path.read_bytes() for path in scene.runs.glob("2*/manifest.json")}
    assert manifests == {recording.manifests[name] for name in names}
    computed = Counter(recording.computed("first") + recording.computed("other"))
    assert computed.pop("merge") == len(names)
    assert computed == dict.fromkeys(("fetch", "prepare", "train", "evaluate"), 1)


# Children that do not want to end

ONLY_TRAIN = 'if [ "$stage" = train ]; then {}; fi'
STUBBORN = ONLY_TRAIN.format('trap "" TERM; echo $$ >"RECORDED/pid"; sleep 600')
WAITING = ONLY_TRAIN.format('echo $$ >"RECORDED/pid"; sleep 600')


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    scene: Scene, recording: Recording, number: int
) -> None:
    def short_grace() -> None:
        process.run_child.__kwdefaults__["grace"] = 0.5

    mark = forget(recording.folder / "first" / "pid")
    fork = scene.start(before=STUBBORN, in_fork=short_grace)
    wait_until(mark.exists, "the training")
    started = time.monotonic()
    os.kill(fork.pid, number)
    ending = fork.wait(30)
    assert ending.code == 128 + number
    assert time.monotonic() - started >= 0.5
    assert "run the same command again" in ending.said
    assert scene.processes() == []
    assert {stage for stage, _ in scene.intact()} == {"fetch", "prepare"}
    check_success(scene)


def test_the_training_dies_with_the_runner_and_the_device_is_locked_until_it_has(
    scene: Scene, recording: Recording
) -> None:
    mark = forget(recording.folder / "first" / "pid")
    fork = scene.start(before=WAITING)
    wait_until(mark.exists, "the training")
    (lock,) = (scene.root / "cache" / "locks").glob("device-*.lock")
    (supervisor,) = children(fork.pid)
    os.kill(supervisor, signal.SIGSTOP)  # so that there is time to look
    os.kill(fork.pid, signal.SIGKILL)
    assert fork.wait().code == -signal.SIGKILL
    assert len(scene.processes()) >= 2  # the supervisor, the training
    assert is_held(lock)
    longer = recording.recipes["first"].replace("max_steps: 12", "max_steps: 13")
    (scene.project / "longer.yaml").write_text(longer)
    busy = scene.run(file="longer.yaml", options=("--no-wait",))
    assert busy.code == 6, busy.said
    assert f"process {fork.pid}" in busy.said
    os.kill(supervisor, signal.SIGCONT)
    with Lock(lock, "the device"):
        assert scene.processes() == []
    check_success(scene)


def forget(file: Path) -> Path:
    file.unlink(missing_ok=True)
    return file


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
