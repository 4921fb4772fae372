"""Digests of large files are remembered, and never for a file that has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.store import known_digests
from runner.store.digest import file_sha256
from runner.store.known_digests import forget, keep, known_sha256


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is worth remembering, and has not changed for a while."""
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_digests, "WORTH", 1000)
    monkeypatch.setattr(known_digests, "SETTLED", -(10**18))  # whatever the clock does
    path = tmp_path / "large"
    path.write_bytes(b"x" * 2000)
    return path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read."""
    read: list[Path] = []

    def reading(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(known_digests, "file_sha256", reading)
    return read


def test_a_large_file_is_read_once(large: Path, readings: list[Path]) -> None:
    digest = known_sha256(large)
    keep()
    assert known_sha256(large) == digest == file_sha256(large)
    assert readings == [large]


def test_looking_up_writes_nothing(large: Path) -> None:
    known_sha256(large)
    assert not (large.parent / "cache").exists()


def test_an_edit_is_seen_even_with_the_old_size_and_time(large: Path, readings: list[Path]) -> None:
    known_sha256(large)
    keep()
    before = large.stat()
    large.write_bytes(b"y" * 2000)
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_sha256(large) == file_sha256(large)
    assert readings == [large, large]


def test_another_file_in_its_place_is_seen(large: Path, readings: list[Path]) -> None:
    known_sha256(large)
    keep()
    other = large.with_name("other")
    other.write_bytes(b"z" * 2000)
    other.replace(large)
    assert known_sha256(large) == file_sha256(large)
    assert readings == [large, large]


def test_a_file_that_was_changed_just_now_is_not_remembered(
    large: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_digests, "SETTLED", 10**18)
    known_sha256(large)
    keep()
    known_sha256(large)
    assert readings == [large, large]


def test_small_files_are_read_each_time(large: Path, readings: list[Path]) -> None:
    large.write_bytes(b"x")
    known_sha256(large)
    keep()
    known_sha256(large)
    assert readings == [large, large]


def test_a_note_that_cannot_be_written_keeps_no_other_back(
    large: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(known_digests._read, large.parent / "gone" / "note.json", "{}")
    known_sha256(large)
    keep()
    known_sha256(large)
    assert readings == [large]


def test_a_damaged_note_is_no_answer(large: Path, readings: list[Path]) -> None:
    known_sha256(large)
    keep()
    (note,) = (large.parent / "cache" / "digests").iterdir()
    note.write_text("[")
    assert known_sha256(large) == file_sha256(large)
    assert len(readings) == 2


def test_what_cannot_be_written_down_is_read_each_time(large: Path, readings: list[Path]) -> None:
    (large.parent / "cache").write_text("no folder")
    digest = known_sha256(large)
    keep()
    assert known_sha256(large) == digest == file_sha256(large)
    assert len(readings) == 2


def test_forgotten_files_are_read_again(large: Path, readings: list[Path]) -> None:
    known_sha256(large)
    keep()
    forget()
    known_sha256(large)
    assert len(readings) == 2
