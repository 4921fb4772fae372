"""Results in a run folder: real files, whatever the file systems can do."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from runner.errors import MachineCannot
from runner.store import publish as publish_module
from runner.store.publish import publish

DATA = bytes(range(256)) * 4096


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "store" / "a.bin"
    file.parent.mkdir()
    file.write_bytes(DATA)
    file.chmod(0o444)
    return file


def check(target: Path, how: str, expected: set[str]) -> None:
    assert how in expected
    assert target.read_bytes() == DATA
    assert not target.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_on_one_file_system_no_byte_is_copied(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "deep" / "b.bin"
    how = publish(source, target)
    check(target, how, {"reflink", "hardlink"})


def test_publishing_again_changes_nothing_and_leaves_no_litter(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "run" / "b.bin"
    for _ in range(2):
        how = publish(source, target)
    check(target, how, {"reflink", "hardlink"})


def test_an_old_file_is_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "b.bin"
    target.parent.mkdir()
    target.write_bytes(b"old")
    check(target, publish(source, target), {"reflink", "hardlink"})


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_where_links_are_refused_the_bytes_are_copied(
    source: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(publish_module, "_reflink", lambda source, target: False)
    target = tmp_path / "run" / "b.bin"
    check(target, publish(source, target), {"copy"})


def test_across_file_systems(source: Path) -> None:
    """Another real file system, in memory, next to the one of the temporary folder."""
    memory = Path("/dev/shm")
    assert memory.stat().st_dev != source.stat().st_dev
    target = memory / f"spark-recipes-test-{os.getpid()}" / "b.bin"
    try:
        check(target, publish(source, target), {"copy"})
    finally:
        target.unlink(missing_ok=True)
        target.parent.rmdir()


def test_a_refused_copy_leaves_the_old_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run" / "b.bin"
    target.parent.mkdir()
    target.write_bytes(b"old")

    def full(*args: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(publish_module, "_place", full)
    with pytest.raises(MachineCannot, match="no space left on the disk while putting b"):
        publish(source, target)
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]
