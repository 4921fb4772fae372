"""Fuzzing of everything that reads a stranger's bytes: the kept corpus, and fresh inputs.

Each input under tests/fuzz/corpus once reached new code, or once broke something: then its name
says what, and it stays. The fresh inputs are the same in every run, for the same sources, but for
`make test-full`, which tries many more, from a seed of its own.
"""

from __future__ import annotations

import platform
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chain import ROOT
from tests.fuzz import drive
from tests.fuzz.targets import CORPUS, TARGETS, Place

KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())
SECONDS = 2.0  # of processor time, for one small input
FRESH, FRESH_FULL = 300, 40_000  # executions of each target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("fuzz"))


def test_the_corpus_is_small_and_of_every_target() -> None:
    assert {path.parent.name for path in KEPT} == set(TARGETS)
    assert len(KEPT) >= 200
    assert sum(path.stat().st_size for path in KEPT) < 600_000


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_ends_well(name: str, place: Place) -> None:
    for path in KEPT:
        if path.parent.name == name:
            started = time.process_time()
            TARGETS[name].read(path.read_bytes(), place)
            assert time.process_time() - started < SECONDS, path


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_ends_well(name: str, place: Place) -> None:
    seeds = list(TARGETS[name].seeds(place))
    assert seeds
    for content in seeds:
        TARGETS[name].read(content, place)


@pytest.mark.parametrize("name", TARGETS)
def test_fresh_inputs_end_well(name: str, tmp_path: Path) -> None:
    fresh(name, tmp_path, runs=FRESH, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_many_fresh_inputs_end_well(name: str, tmp_path: Path) -> None:
    fresh(name, tmp_path, runs=FRESH_FULL, seed=random.SystemRandom().randrange(1, 2**31))


def fresh(name: str, found: Path, *, runs: int, seed: int) -> None:
    """Run the driver; on failure say what to keep. `-timeout` and `-rss_limit_mb` bound each."""
    command = [sys.executable, "-m", "tests.fuzz.drive", name, "--runs", str(runs)]
    command += ["--seed", str(seed), "--found", str(found)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    inputs = {path.name: path.read_bytes()[:400] for path in found.iterdir()}
    said = ended.stdout[-3000:] + ended.stderr[-1000:]
    assert ended.returncode == 0, f"seed {seed}: {inputs}\n{said}"
    if drive.GUIDED:
        done = re.search(r"^Done (\d+) runs", ended.stderr, flags=re.MULTILINE)
        assert done, said
        assert int(done[1]) >= runs


def test_it_is_guided_where_there_is_a_wheel() -> None:
    """Everywhere that make test runs but on ARM64."""
    assert (platform.machine() == "x86_64" and sys.platform == "linux") == drive.GUIDED


# --- the harness notices


PLANTED = """
import sys
from tests.fuzz import drive, targets

def planted(content, place):
    if {condition}:
        {crime}

targets.TARGETS["planted"] = targets.Target(planted, lambda place: iter([b"seed"]))
sys.exit(drive.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize(
    ("condition", "crime", "said"),
    [
        ("b'learning_rate' in content", "raise KeyError('planted')", "KeyError"),
        pytest.param("len(content) > 40", "while True: pass", "timeout", id="endless"),
    ],
)
def test_a_planted_bug_is_found(
    guided: bool, condition: str, crime: str, said: str, tmp_path: Path
) -> None:
    """By a traceback or, guided, by the clock; without a guide nobody looks at the clock."""
    if not guided and said == "timeout":
        crime, said = "raise OverflowError('planted')", "OverflowError"
    program = tmp_path / "planted.py"
    changed = f"drive.GUIDED = {guided and drive.GUIDED}; drive.SECONDS = 1\nsys.exit("
    program.write_text(
        PLANTED.format(condition=condition, crime=crime).replace("sys.exit(", changed)
    )
    found = tmp_path / "found"
    found.mkdir()
    command = [sys.executable, str(program), "planted", "--runs", "20000", "--found", str(found)]
    ended = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert said in ended.stdout + ended.stderr
    (kept,) = found.iterdir()
    assert eval(condition, {"content": kept.read_bytes()})
