"""The benchmark of `recipe diff` measures what it says, and peaks are those of the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import diff, timing
from benchmarks.timing import Command


def output(command: Command) -> str:
    env = {**os.environ, **(command.env or {})}
    return subprocess.run(
        list(command.argv), env=env, capture_output=True, text=True, check=True
    ).stdout


LAYERS = [f"layers.{n}.weight" for n in range(7)]


@pytest.mark.parametrize(("seed", "differing"), [(None, LAYERS[-1:]), (1, LAYERS)])
def test_all_find_the_difference(
    seed: int | None, differing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff, "ROWS", 64)
    first = diff.write_run(tmp_path / "first", 1, seed=0)
    second = diff.write_run(tmp_path / "second", 1, seed=seed)
    ours, _, peer = (output(each) for each in diff.commands(first, second))
    assert f"model.safetensors: {differing[0]}: " in ours
    assert f"{len(differing)} of {len(LAYERS)} tensors differ" in ours
    assert peer.strip() == str(differing)


def test_equal_runs_end_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it could measure a comparison that looks at nothing."""
    monkeypatch.setattr(diff, "ROWS", 64)
    first, second = (diff.write_run(tmp_path / name, 1, seed=0) for name in "ab")
    for command in diff.commands(first, second)[:2]:
        with pytest.raises(subprocess.CalledProcessError):
            output(command)


def test_the_peak_is_that_of_the_command_and_not_of_who_starts_it() -> None:
    ballast = bytearray(b"x" * (200 << 20))
    hungry = "held = b'x' * (100 << 20)"
    small, large = timing.time_side_by_side(
        [Command(name, [sys.executable, "-c", name]) for name in ("pass", hungry)], 1
    )
    assert small.peak < 60 << 20 < 100 << 20 <= large.peak < len(ballast)


def test_a_command_that_fails_ends_the_benchmark_with_its_words() -> None:
    broken = Command("broken", [sys.executable, "-c", "raise SystemExit('no such luck')"])
    with pytest.raises(RuntimeError, match="broken failed: no such luck"):
        timing.time_side_by_side([broken], 1)
