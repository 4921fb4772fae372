"""A file system that is really full: it takes root to mount a small one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain import Checkout
from tests.e2e.conftest import make_tiny, tiny  # noqa: F401  (fixtures)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half(
    tiny: Checkout,  # noqa: F811
    small_disk: Path,
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (2 * 1024 * 1024 - 400_000))
    full = tiny.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(small_disk / "store"))
    assert full.returncode in (1, 4), full.stderr
    assert "space" in full.stderr or "full" in full.stderr
    assert "Traceback" not in full.stderr
    assert list((small_disk / "store").glob("[a-z]*/*/.stage.json")) == []
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = tiny.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(small_disk / "store"))
    assert again.returncode == 0, again.stderr
