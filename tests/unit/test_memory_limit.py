"""A cgroup of a child's own: where it is made, over trees like those of v1 and v2."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.system.memory_limit import SETTING, asked, group
from tests.unit.test_doctor import GB, machine

V2 = {
    "proc/self/cgroup": "0::/user.slice/app.scope\n",
    "sys/fs/cgroup/user.slice/cgroup.controllers": "cpu memory",
    "sys/fs/cgroup/user.slice/cgroup.procs": "",
    "sys/fs/cgroup/user.slice/cgroup.subtree_control": "cpu memory",
    "sys/fs/cgroup/user.slice/app.scope/cgroup.controllers": "cpu memory",
}
V1 = {"proc/self/cgroup": "4:memory:/job\n0::/\n", "sys/fs/cgroup/memory/job/cgroup.procs": ""}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("110GB", 110 * GB),
        ("1.5 GiB", 3 << 29),
        ("64mb", 64 * 10**6),
        ("2000000", 2000000),
    ],
)
def test_the_setting_is_a_size(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, text)
    assert asked() == size


@pytest.mark.parametrize("text", ["much", "12 apples", "-1GB", "10", "GB", "nanGB", "infGB"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, text)
    with pytest.raises(UsageError, match="is no size of memory") as caught:
        asked()
    assert caught.value.code == "E962"


def test_in_v2_it_is_made_beside_the_own_group(tmp_path: Path) -> None:
    root = machine(tmp_path, V2)
    slice_ = root / "sys/fs/cgroup/user.slice"
    with group(50 * GB, root) as made:
        assert made is not None
        assert made.folder.parent == slice_
        assert (made.folder / "memory.max").read_text() == str(50 * GB)
        (made.folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
        assert made.oom_kills() == 1


def test_in_v1_it_is_made_below_the_own_group(tmp_path: Path) -> None:
    root = machine(tmp_path, V1)
    with group(50 * GB, root) as made:
        assert made is not None
        assert made.folder.parent == root / "sys/fs/cgroup/memory/job"
        assert (made.folder / "memory.limit_in_bytes").read_text() == str(50 * GB)
        (made.folder / "memory.oom_control").write_text("under_oom 0\noom_kill 3\n")
        assert made.oom_kills() == 3


def test_where_no_memory_is_given_to_groups_there_is_none(tmp_path: Path) -> None:
    kept = V2 | {"sys/fs/cgroup/user.slice/cgroup.subtree_control": "cpu"}
    with group(GB, machine(tmp_path / "kept", kept)) as made:
        assert made is None
    with group(GB, machine(tmp_path / "none", {"proc/self/cgroup": ""})) as made:
        assert made is None


def test_groups_of_runners_that_were_killed_are_removed(tmp_path: Path) -> None:
    root = machine(tmp_path, V1)
    left = root / "sys/fs/cgroup/memory/job/spark-recipes-7-1"
    left.mkdir()
    with group(GB, root):
        assert not left.exists()
