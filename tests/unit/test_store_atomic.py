"""write_atomic: the old bytes or the new bytes, whatever fails in between."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from runner.errors import MachineCannot
from runner.store.atomic import disk_errors, fsync_tree, write_atomic
from tests.faults import MODES, faults, recorded

OLD, NEW = b'{"v": 1}', b'{"v": 2, "pad": "' + b"x" * 50_000 + b'"}'


@pytest.mark.parametrize("mode", MODES)
def test_no_fault_leaves_a_torn_file(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "folder"
    file = folder / "run.json"

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        for child in folder.iterdir():
            child.unlink()
        file.write_bytes(OLD)

    states = []
    for fault in faults(lambda: write_atomic(file, NEW), prepare, mode):
        states.append(file.read_bytes())
        assert states[-1] in (OLD, NEW), f"torn by {mode} at operation {fault.number}"
        litter = [path.name for path in folder.iterdir() if path != file]
        if mode == "kill":
            assert all(name.startswith(".run.json.") for name in litter)
        else:
            assert litter == []
    assert len(states) > 5
    assert states[0] == OLD
    assert states[-1] == NEW


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path) -> None:
    log = recorded(lambda: write_atomic(tmp_path / "a", NEW))
    names = [name for name, _ in log]
    assert names == ["open", "write", "fsync", "replace", "open", "fsync"]
    assert log[-2] == ("open", str(tmp_path))


def test_a_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_atomic(file, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert file.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", "ü")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert (tmp_path / "a").read_bytes() == "ü".encode()


def test_a_whole_tree_is_synced_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_bytes(NEW)
    (tmp_path / "tree" / "link").symlink_to("/nonexistent")
    synced = [
        path for name, path in recorded(lambda: fsync_tree(tmp_path / "tree")) if name == "fsync"
    ]
    assert [Path(path).name for path in synced] == ["file", "deep", "tree"]


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
FAILING = (errno.EIO, errno.ESTALE)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, "E410") for number in FULL),
        *((number, "E411") for number in REFUSED),
        *((number, "E860") for number in FAILING),
    ],
)
def test_refusals_of_the_disk_become_words(number: int, code: str) -> None:
    words = pytest.raises(MachineCannot, match=r"while storing things.*: /there")
    with words as caught, disk_errors("storing things"):
        raise OSError(number, os.strerror(number), "/there")
    assert caught.value.code == code
    assert caught.value.exit_code == 4
    assert ("write to" if code != "E860" else "dmesg") in caught.value.hint
    assert "SPARK_RECIPES" not in caught.value.hint


def test_other_errors_are_not_dressed_up() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"), disk_errors("storing things"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
