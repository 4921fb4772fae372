"""The benchmark of `recipe verify` measures what it says: both read all bytes of the same files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import verify
from benchmarks.timing import Command, Timing
from runner.store.digest import file_sha256


@pytest.mark.parametrize("count", verify.FILES)
def test_both_hash_the_same_files(tmp_path: Path, count: int) -> None:
    size = 3 * verify.MEGABYTE + 7
    run = verify.write_run(tmp_path / "run", size, count)
    files = verify.weights(run)
    assert [path.stat().st_size for path in files] == [size] * count
    said = output(verify.ours(run, "x"))
    assert f"files     {count + 1} files hashed, all as recorded" in said  # and the manifest
    lines = output(verify.peer(run, "x")).split()
    assert {file_sha256(path) for path in files} == {word for word in lines if len(word) == 64}


def output(command: Command) -> str:
    env = {**os.environ, **(command.env or {})}
    return subprocess.run(
        list(command.argv), env=env, capture_output=True, text=True, check=True
    ).stdout


def test_a_damaged_file_ends_the_benchmark(tmp_path: Path) -> None:
    """Or it could measure a verify that stops at the first file."""
    run = verify.write_run(tmp_path / "run", 10, 1)
    verify.weights(run)[0].write_bytes(b"0123456789")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        output(verify.ours(run, "x"))
    assert caught.value.returncode == 7


def test_the_rates_leave_the_start_up_out() -> None:
    seconds = {"ours, nothing": 0.5, "openssl, nothing": 0.25, "ours": 2.5, "openssl": 1.25}
    timings = [Timing(name, [value], [1]) for name, value in seconds.items()]
    assert verify.rates(timings, 1000) == (
        "without the start-up: recipe verify 500 MB/s, openssl 1000 MB/s, ratio 0.50"
    )


def test_a_whole_measurement_of_next_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "rates", lambda timings, megabytes: f"{len(timings)} timings")
    verify.main(1, 1)
    said = capsys.readouterr().out
    for count in verify.FILES:
        assert f"{count} file(s), 1 MB together, 1 runs each" in said
    assert said.count("| recipe verify, 1 MB |") == said.count("4 timings") == len(verify.FILES)
    assert said.count("| openssl dgst -sha256, 1 MB |") == len(verify.FILES)
