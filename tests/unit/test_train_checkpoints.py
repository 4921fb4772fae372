"""A checkpoint counts only when all of it is there, and only for its own job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.scripts.training.checkpoints import (
    MARKER,
    complete_checkpoints,
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
