"""`gc`: what no run uses goes, after saying so; what anybody might still use stays."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.stages.contract import Class
from runner.store.clean_place import passing_runs
from runner.store.collect import Collection, collect
from runner.store.roots import read_roots, register_root
from runner.store.store import State, Store

USED, UNUSED = "11" * 32, "22" * 32


class World:
    """A project with a run folder, and a store with an entry the run uses and one nobody uses."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.run = self.project / "runs" / "quickstart" / "2026-01-01"
        self.run.mkdir(parents=True)
        self.store = Store(folder / "store")
        self.commit(USED)
        self.commit(UNUSED)
        register_root(self.store, self.run, [("merge", USED)])

    def commit(self, key: str) -> None:
        staging = self.store.staging("merge", key)
        (staging.out / "a.bin").write_bytes(b"a" * 1000)
        self.store.commit(staging, version=1, key_inputs={}, classes={"*": Class.PORTABLE})

    def present(self) -> set[str]:
        return {
            key
            for key in (USED, UNUSED)
            if self.store.inspect("merge", key).state is not State.MISSING
        }

    def everything(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() for path in self.store.root.rglob("*") if path.is_file()
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def reasons(found: Collection) -> dict[str, str]:
    return {item.path.name: item.reason for item in found.removed}


def test_a_dry_run_says_what_would_go_and_changes_nothing(world: World) -> None:
    before = world.everything()
    found = collect(world.store, dry_run=True)
    assert reasons(found) == {UNUSED: "no run uses it"}
    assert found.freed > 1000
    assert world.everything() == before
    again = collect(world.store, dry_run=False)
    assert again.removed == found.removed
    assert world.present() == {USED}
    assert collect(world.store, dry_run=False).removed == []


def test_the_last_list_of_a_run_counts(world: World) -> None:
    register_root(world.store, world.run, [("merge", USED), ("merge", UNUSED)])
    assert collect(world.store, dry_run=False).removed == []
    register_root(world.store, world.run, [])
    collect(world.store, dry_run=False)
    assert world.present() == set()


@pytest.mark.parametrize("parent", [0, 1, 2], ids=["the run", "runs/NAME", "runs"])
def test_a_deleted_run_no_longer_holds_its_results(world: World, parent: int) -> None:
    shutil.rmtree([world.run, *world.run.parents][parent])
    found = collect(world.store, dry_run=False)
    assert found.unresolved == []
    assert f"its run {world.run} was deleted" in reasons(found).values()
    assert world.present() == set()
    assert read_roots(world.store) == []


def _unmount(world: World) -> None:
    """What is left of an unmounted volume: its empty mount point, another folder."""
    world.project.rename(world.project.with_name("away"))
    world.project.mkdir()


def _other_checkout(world: World) -> None:
    """Another container has another project at the same path."""
    world.project.rename(world.project.with_name("away"))
    (world.project / "runs" / "quickstart").mkdir(parents=True)


def _remove_the_mount_point(world: World) -> None:
    world.project.rename(world.project.with_name("away"))


@pytest.mark.parametrize("hide", [_unmount, _other_checkout, _remove_the_mount_point])
def test_a_run_that_is_only_out_of_sight_keeps_its_results(
    world: World, hide: Callable[[World], None]
) -> None:
    hide(world)
    found = collect(world.store, dry_run=False)
    assert [root.folder for root in found.unresolved] == [world.run]
    assert world.present() == {USED}


def test_a_folder_on_another_file_system_proves_nothing(world: World) -> None:
    """A volume, here /dev/shm: the folder above its mount point stays when the volume is gone."""
    memory = Path("/dev/shm")
    assert memory.stat().st_dev != memory.parent.stat().st_dev
    run = memory / f"spark-recipes-{os.getpid()}" / "2026-01-01"
    run.mkdir(parents=True)
    try:
        register_root(world.store, run, [])
    finally:
        run.rmdir()
        run.parent.rmdir()
    remembered = [
        json.loads(file.read_text())["above"]
        for file in (world.store.root / ".roots").glob("*.json")
        if str(run) in file.read_text()
    ]
    assert [set(above) for above in remembered] == [{str(run.parent), str(memory)}]


def test_a_root_that_cannot_be_read_stops_everything(world: World) -> None:
    (file,) = (world.store.root / ".roots").glob("*.json")
    file.write_text("{")
    before = world.everything()
    with pytest.raises(ValueError, match=f"{file} cannot be read"):
        collect(world.store, dry_run=False)
    assert world.everything() == before


def test_what_a_running_process_holds_is_left_alone(world: World) -> None:
    staging = world.store.staging("train", UNUSED)
    (staging.scratch / "checkpoint").touch()
    with world.store.lock("merge", UNUSED), world.store.lock("train", UNUSED):
        assert collect(world.store, dry_run=True).removed == []
        found = collect(world.store, dry_run=False)
    assert found.removed == []
    assert set(found.in_use) == {
        world.store.folder("merge", UNUSED),
        world.store.folder("train", UNUSED),
    }
    assert (staging.scratch / "checkpoint").exists()
    assert world.present() == {USED, UNUSED}


def test_a_result_that_a_run_takes_into_use_meanwhile_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process registers it between the first look and the lock."""
    lock = Store.lock

    def lock_late(store: Store, stage: str, key: str, **options: bool) -> object:
        register_root(store, world.run, [("merge", USED), ("merge", UNUSED)])
        return lock(store, stage, key, **options)

    monkeypatch.setattr(Store, "lock", lock_late)
    assert collect(world.store, dry_run=False).removed == []
    assert world.present() == {USED, UNUSED}


def test_checkpoints_of_a_run_that_will_go_on_stay(world: World) -> None:
    staging = world.store.staging("train", USED)
    register_root(world.store, world.run, [("merge", USED), ("train", USED)])
    collect(world.store, dry_run=False)
    assert staging.scratch.exists()


def test_stale_staging_goes_with_the_reason(world: World) -> None:
    abandoned = world.store.staging("train", UNUSED)
    finished = world.store.staging("merge", USED)
    found = collect(world.store, dry_run=False)
    said = {str(item.path.relative_to(world.store.root)): item.reason for item in found.removed}
    assert "checkpoints go with it" in said[f".staging/train/{UNUSED}"]
    assert "finished since" in said[f".staging/merge/{USED}"]
    assert not abandoned.scratch.exists()
    assert not finished.scratch.exists()


def test_nothing_is_left_of_a_store_that_nobody_uses(world: World) -> None:
    (world.store.root / ".trash").mkdir(exist_ok=True)
    (world.store.root / ".trash" / "merge-x").mkdir()
    (world.store.root / ".trash" / "merge-x" / "a.bin").touch()
    (world.store.root / ".roots" / ".x.json.1234.partial").touch()
    shutil.rmtree(world.run)
    found = collect(world.store, dry_run=False)
    assert reasons(found)["merge-x"] == "left by a killed process"
    left = [path.name for path in world.store.root.rglob("*") if path.is_file()]
    assert left == ["roots.lock"]


def test_a_store_that_was_never_used_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "nowhere")
    assert collect(store, dry_run=True).removed == []
    assert collect(store, dry_run=False).removed == []


def test_the_run_is_named_by_its_path_as_given_not_through_links(world: World) -> None:
    link = world.project / "runs" / "quickstart" / "latest"
    link.symlink_to(world.run.name)
    register_root(world.store, link, [])
    folders = {json.loads(file.read_text())["folder"]
               for file in (world.store.root / ".roots").glob("*.json")}  # fmt: skip
    assert folders == {str(world.run), str(link)}
    os.unlink(link)  # noqa: PTH108
    assert {root.dead for root in read_roots(world.store) if root.folder == link} == {True}


def test_half_written_files_of_killed_runs_go_and_those_of_a_running_one_stay(world: World) -> None:
    shown = world.run / "merged" / "model"
    shown.mkdir(parents=True)
    litter = [world.run / ".run.json.0123abcd.partial", shown / ".a.0123abcd.partial"]
    for path in litter:
        path.touch()
    (world.run / ".latest.partial").symlink_to("x")
    (world.run / "run.json").touch()
    running = os.open(world.run, os.O_RDONLY)
    fcntl.flock(running, fcntl.LOCK_EX)
    collect(world.store, dry_run=False)
    assert all(path.exists() for path in litter)
    os.close(running)
    assert {item.path for item in collect(world.store, dry_run=True).removed} >= {*litter}
    collect(world.store, dry_run=False)
    assert not any(path.exists() for path in litter)
    assert not (world.run / ".latest.partial").is_symlink()
    assert (world.run / "run.json").exists()


def test_half_written_notes_of_digests_go(world: World, tmp_path: Path) -> None:
    notes = tmp_path / "digests"
    notes.mkdir()
    (notes / ".a.json.0123abcd.partial").touch()
    (notes / "b.json").touch()
    collect(world.store, dry_run=False, notes=notes)
    assert [path.name for path in notes.iterdir()] == ["b.json"]


def test_runs_of_passing_work_are_forgotten_with_their_folder(world: World, tmp_path: Path) -> None:
    (kept,) = read_roots(world.store)

    def pass_by() -> None:
        with passing_runs(tmp_path / "cache", world.store) as place:
            run = place / "runs" / "20270101-000000"
            run.mkdir(parents=True)
            register_root(world.store, run, [("merge", UNUSED)])
            assert len(read_roots(world.store)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pass_by()
    assert read_roots(world.store) == [kept]
    found = collect(world.store, dry_run=True)
    assert [item.path.name for item in found.removed] == [UNUSED]


def test_a_root_that_cannot_be_read_keeps_nobody_from_forgetting(
    world: World, tmp_path: Path
) -> None:
    damaged = world.store.root / ".roots" / "damaged.json"
    damaged.write_text("{")
    with passing_runs(tmp_path / "cache", world.store) as place:
        register_root(world.store, place, [])
    assert damaged.is_file()
    assert len(list(damaged.parent.iterdir())) == 2  # and that of the world's own run
