"""A commit that fails or dies at any file operation: old or new, never torn, then it goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from runner.stages.contract import Class
from runner.store.collect import collect
from runner.store.roots import register_root
from runner.store.store import State, Store
from tests.faults import MODES, faults

KEY = "cd" * 32
CLASSES = {"*.bin": Class.PORTABLE}


class Scene:
    """A store with another, intact entry, and a stage that is about to be committed."""

    def __init__(self, folder: Path, damaged: bool) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        self.run = folder / "runs" / "x" / "1"
        self.damaged = damaged

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.run.mkdir(parents=True)
        if self.damaged:
            self.work()
            file = self.store.folder("merge", KEY) / "a.bin"
            file.chmod(0o644)
            file.write_bytes(b"damaged")

    def work(self) -> None:
        """What the executor does for one stage, under the key's lock."""
        with self.store.lock("merge", KEY):
            found = self.store.reuse("merge", KEY)
            if found is None:
                staging = self.store.staging("merge", KEY)
                (staging.out / "a.bin").write_bytes(b"a" * 100)
                (staging.out / "deep").mkdir()
                (staging.out / "deep" / "b.bin").write_bytes(b"b")
                self.store.commit(staging, version=1, key_inputs={}, classes=CLASSES)
            register_root(self.store, self.run, [("merge", KEY)])

    def contents(self) -> dict[str, bytes] | None:
        """What a reader of the store would get."""
        outputs = self.store.lookup("merge", KEY)
        if outputs is None:
            return None
        return {path: outputs.path(path).read_bytes() for path in outputs.files}

    def litter(self) -> list[Path]:
        keep = {self.store.folder("merge", KEY), self.store.root / ".roots"}
        return [
            path
            for path in self.store.root.rglob("*")
            if path.is_file()
            and not any(folder in path.parents for folder in keep)
            and path.suffix != ".lock"
        ] + list(self.store.root.rglob("*.partial"))


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is lost here, so a wait for the disk is counted, and may fail, but need not wait."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


RIGHT = {"a.bin": b"a" * 100, "deep/b.bin": b"b"}


@pytest.mark.parametrize("damaged", [False, True], ids=["new", "over-damaged"])
@pytest.mark.parametrize("mode", MODES)
def test_no_fault_is_ever_seen_by_a_reader(tmp_path: Path, mode: str, damaged: bool) -> None:
    scene = Scene(tmp_path / "scene", damaged)
    rounds = lost = 0
    for fault in faults(scene.work, scene.prepare, mode):
        rounds += 1
        assert scene.contents() in (None, RIGHT), f"torn by {mode} at operation {fault.number}"
        if not fault.survived and mode != "kill":
            assert "Error" in fault.said or "MachineCannot" in fault.said
        scene.work()
        assert scene.contents() == RIGHT
        collect(scene.store, dry_run=False)
        assert scene.contents() == RIGHT
        lost += len(scene.litter())
    assert rounds > 30
    assert lost == 0


def test_a_commit_killed_at_the_last_moment_is_finished_not_repeated(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "scene", damaged=False)
    recovered = 0
    for _ in faults(scene.work, scene.prepare, "kill"):
        if scene.store.inspect("merge", KEY).state is State.MISSING:
            recovered += scene.store.reuse("merge", KEY) is not None
    assert recovered > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_fault_while_a_copied_entry_is_stamped_again_loses_it_not(
    tmp_path: Path, mode: str
) -> None:
    scene = Scene(tmp_path / "scene", damaged=False)

    def prepare() -> None:
        scene.prepare()
        scene.work()
        os.utime(scene.store.folder("merge", KEY) / "a.bin", (0, 0))  # as a copy has

    rounds = 0
    for _ in faults(scene.work, prepare, mode):
        rounds += 1
        assert scene.store.inspect("merge", KEY).state is State.OK
        collect(scene.store, dry_run=False)
        assert scene.litter() == []
    assert rounds > 10
