"""A checkpoint counts only when all of it is there, and only for its own job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.scripts.training.checkpoints import (
    MARKER,
    complete_checkpoints,
    make_room,
    mark_complete,
    remove_incomplete,
    remove_old,
    step_of,
)


def written(folder: Path, step: int, *, job: str | None = "job") -> Path:
    """A checkpoint of two files, one in a folder; without a marker when `job` is None."""
    path = folder / f"checkpoint-{step}"
    (path / "nested").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"12345")
    (path / "nested" / "state.json").write_bytes(b"{}")
    if job is not None:
        mark_complete(path, job)
    return path


def test_complete_ones_come_oldest_first_by_number(tmp_path: Path) -> None:
    made = [written(tmp_path, step) for step in (100, 9, 20)]
    assert complete_checkpoints(tmp_path, "job") == [made[1], made[2], made[0]]
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [9, 20, 100]


def shorten(path: Path) -> None:
    (path / "optimizer.pt").write_bytes(b"1234")


def remove_a_file(path: Path) -> None:
    (path / "nested" / "state.json").unlink()


def break_the_marker(path: Path) -> None:
    (path / MARKER).write_text('{"job": "job"')


def empty_the_marker(path: Path) -> None:
    (path / MARKER).write_text("[]")


@pytest.mark.parametrize("damage", [shorten, remove_a_file, break_the_marker, empty_the_marker])
def test_a_damaged_one_does_not_count(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    good, bad = written(tmp_path, 1), written(tmp_path, 2)
    damage(bad)
    assert complete_checkpoints(tmp_path, "job") == [good]


def test_what_this_job_cannot_use_is_removed_and_nothing_else(tmp_path: Path) -> None:
    good = written(tmp_path, 1)
    written(tmp_path, 2, job="another")
    written(tmp_path, 3, job=None)
    (tmp_path / "README.md").write_text("kept")
    remove_incomplete(tmp_path, "job")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", good.name]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        written(tmp_path, step)
    remove_old(tmp_path, "job")
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [3, 10]


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert complete_checkpoints(tmp_path / "missing") == []
    remove_incomplete(tmp_path / "missing", "job")


@pytest.mark.parametrize(("kept", "left"), [(1, [30]), (3, [10, 20, 30]), (0, [30])])
def test_as_many_are_kept_as_asked_for_and_one_at_least(
    tmp_path: Path, kept: int, left: list[int]
) -> None:
    for step in (10, 20, 30):
        written(tmp_path, step)
    remove_old(tmp_path, "job", kept)
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == left


def free(monkeypatch: pytest.MonkeyPatch, folder: Path, room: int) -> None:
    """A disk of `room` bytes, shared by what lies below `folder`."""

    def usage(path: Path) -> SimpleNamespace:
        used = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
        return SimpleNamespace(free=room - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)


@pytest.mark.parametrize(
    ("spare", "left"),
    [(2.0, [10, 20, 30]), (0.5, [20, 30]), (-0.5, [30]), (-9.0, [30])],
)
def test_the_oldest_make_room_for_the_next_and_the_last_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: float, left: list[int]
) -> None:
    sizes = []
    for step in (10, 20, 30):
        path = written(tmp_path, step)
        sizes.append(sum(each.stat().st_size for each in path.rglob("*") if each.is_file()))
    free(monkeypatch, tmp_path, sum(sizes) + int(spare * sizes[-1]))
    make_room(tmp_path, "job")
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == left


def test_an_incomplete_newer_one_does_not_let_the_last_complete_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 10)
    written(tmp_path, 20, job=None)
    free(monkeypatch, tmp_path, 0)
    make_room(tmp_path, "job")
    remove_old(tmp_path, "job", 1)
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [10]
    make_room(tmp_path / "none", "job")
