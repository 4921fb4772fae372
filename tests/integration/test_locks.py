"""Every lock installs from wheels alone, on both architectures and every Python we support.

The resolution is a real one against the package index; nothing is downloaded but metadata.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runner.system.folders import shipped
from runner.system.uv import index_options, uv_binary, uv_env

LOCKS = sorted(shipped("environments").glob("*.txt"))
# A Spark runs Ubuntu 24.04 (glibc 2.39); 2.28 is what wheels for x86-64 ask for today.
PLATFORMS = {"aarch64": "aarch64-manylinux_2_39", "x86-64": "x86_64-manylinux_2_28"}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def resolve(
    lock: Path, platform: str, python: str, cache: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """What uv would install on that machine, dependencies included."""
    target = cache.parent / "nothing-goes-here"
    command = [uv_binary(), "pip", "install", "--dry-run", "--python", sys.executable]
    command += ["--target", str(target)]
    command += ["--only-binary", ":all:", "--require-hashes", "--python-platform", platform]
    command += ["--python-version", python, *more, "-r", str(lock)]
    if (left_out := lock.with_suffix(".overrides")).exists():
        command += ["--overrides", str(left_out)]
    return subprocess.run(
        command, env=uv_env(cache), capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks") / "cache"


def test_all_locks_are_looked_at() -> None:
    assert {lock.stem for lock in LOCKS} >= {
        "data",
        "evaluate",
        "export",
        "harness",
        "llamafactory",
        "metrics",
        "native",
        "parquet",
        "ppo",
        "ray",
        "runner",
        "sign",
        "unsloth",
    }


@pytest.mark.parametrize(
    ("lock", "machine", "python"),
    list(itertools.product(LOCKS, PLATFORMS, PYTHONS)),
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)
def test_a_lock_resolves_to_wheels(lock: Path, machine: str, python: str, cache: Path) -> None:
    answer = resolve(lock, PLATFORMS[machine], python, cache, *index_options())
    assert answer.returncode == 0, answer.stderr
    would = re.search(r"Would install (\d+) packages?", answer.stderr)
    assert would is not None, answer.stderr
    assert int(would.group(1)) > {"browser": 1, "parquet": 0, "sign": 3}.get(lock.stem, 10)


def test_the_check_notices_a_package_without_a_wheel_for_the_machine(tmp_path: Path) -> None:
    """The control: a wheel for x86-64 alone resolves there, and not for a Spark."""
    wheel = tmp_path / "only-1.0-py3-none-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "only-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: only\nVersion: 1.0\n"
        )
        archive.writestr("only-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("only-1.0.dist-info/RECORD", "")
    lock = tmp_path / "lock.txt"
    digest = subprocess.run(["sha256sum", wheel], capture_output=True, text=True, check=True).stdout
    lock.write_text(f"only==1.0 --hash=sha256:{digest.split()[0]}\n")
    offline = ("--no-index", "--find-links", str(tmp_path))
    codes = {
        machine: resolve(lock, platform, "3.12", tmp_path / "cache", *offline).returncode
        for machine, platform in PLATFORMS.items()
    }
    assert codes["x86-64"] == 0
    assert codes["aarch64"] != 0


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_address(lock: Path) -> None:
    """Or it would not work with another mirror than its author's."""
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links)", text, re.M)
    pinned = re.findall(r"^[A-Za-z0-9][^\n]*", text, re.M)
    assert all(re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+ ", line) for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)
