"""docs/evidence.md from results files, and what identifies the sources behind them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import page, results
from benchmarks.gpu.cases import CASES, SEVENTY
from tests.chain import ROOT

GB = 10**9
DEVICE = {"name": "NVIDIA H200", "capability": "9.0", "memory": 150 * GB, "unified": False}
LIBRARIES = {"torch": "2.11.0", "transformers": "5.1.0", "trl": None, "peft": "0.19.0"}
PHASE = {
    "predicted": 10 * GB,
    "measured": 9 * GB,
    "ratio": 0.9,
    "within": False,
    "tensors": 8 * GB,
    "reserved": 8 * GB,
    "tensors_ratio": 1.01,
}
GOOD = {
    "name": CASES[0].name,
    "state": "done",
    "phases": {"load": PHASE, "train": {**PHASE, "ratio": 1.02, "within": True}},
    "speed": {"steps": 4, "tokens_per_second": 12345.6, "mfu": 0.215},
}
LARGE = {
    "name": SEVENTY.name,
    "state": "done",
    "phases": {"train": {**PHASE, "within": True}},
    "speed": {"refused": "too | fast"},
    "peak": 51_300_000_000,
    "expected": [45 * GB, 55 * GB],
    "as_expected": True,
}
EVIDENCE: dict[str, Any] = {
    "schema": 1,
    "stack": {
        "device": {**DEVICE, "cuda": "13.0"},
        "driver": "580.95",
        "python": "3.12.3",
        "libraries": LIBRARIES,
    },
    "locked": False,
    "sources": "ab" * 32,
    "cases": [
        GOOD,
        LARGE,
        {"name": CASES[1].name, "state": "not run", "reason": "bitsandbytes is not installed"},
        {"name": CASES[2].name, "state": "failed", "reason": "ended by SIGKILL"},
    ],
    "tests": [
        {"name": "test_training::test_a", "state": "passed", "reason": ""},
        {"name": "test_training::test_b", "state": "failed", "reason": "assert 1 == 2"},
    ],
}


def rows(text: str, name: str) -> list[list[str]]:
    """The cells of every line of a table that begins with `name`."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [re.split(r"(?<!\\) \| ", line.strip("| "))[1:] for line in lines]


def spark() -> dict[str, Any]:
    found = copy.deepcopy(EVIDENCE)
    found["stack"]["device"] |= {"name": "NVIDIA GB10", "unified": True}
    found["locked"] = True
    return found


def test_the_page_is_current() -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.page(results.read_all()), "python -m benchmarks.gpu.page"


def test_the_target_reads_not_run_until_there_is_a_file() -> None:
    for found in ([], [EVIDENCE]):
        text = page.page(found)
        names = [*(case.name for case in CASES), "driver", "the locked stack", "70B"]
        for name in names:
            assert all(cells[0] == "not run" for cells in rows(text, name)), name
            assert rows(text, name)
    assert [cells[0] for cells in rows(page.page([spark()]), "driver")] == ["580.95"]


def test_that_nobody_has_measured_is_said_until_somebody_has() -> None:
    assert page.NOBODY in page.page([])
    assert page.NOBODY not in page.page([EVIDENCE])


def test_each_device_has_a_column() -> None:
    text = page.page([EVIDENCE, spark()])
    assert "| test | NVIDIA GB10 | NVIDIA H200 |" in text
    assert rows(text, "the locked stack") == [["yes", "no: what was installed"]]
    assert rows(text, "memory") == [["150 GB, shared", "150 GB"]]
    assert rows(text, "trl") == [["not installed", "not installed"]]
    assert rows(text, "bitsandbytes") == [["not installed", "not installed"]]
    assert rows(text, r"sources \(sha256\)".replace("\\", "")) == [["abababababab"] * 2]


def test_what_is_not_within_a_tenth_has_a_mark() -> None:
    memory, speed = rows(page.page([EVIDENCE]), CASES[0].name)
    assert memory[1] == "load 0.90\\* (1.01), train 1.02 (1.01)"
    assert speed[1] == "12,346 (MFU 21.5%)"


def test_what_was_not_measured_says_why() -> None:
    text = page.page([EVIDENCE])
    reason = "not run: bitsandbytes is not installed"
    assert [cells[1] for cells in rows(text, CASES[1].name)] == [reason, reason]
    assert rows(text, CASES[2].name)[0][1] == "failed: ended by SIGKILL"
    assert rows(text, CASES[3].name)[0][1] == "not run"


def test_the_largest_is_beside_what_is_expected() -> None:
    text = page.page([EVIDENCE])
    assert rows(text, "70B")[0][1].startswith("51.3 GB at the peak, as expected; ")
    other = copy.deepcopy(EVIDENCE)
    other["cases"][1] |= {"peak": 60 * GB, "as_expected": False}
    assert "60.0 GB at the peak, not as expected" in page.page([other])


def test_a_refused_speed_shows_no_number() -> None:
    assert rows(page.page([EVIDENCE]), SEVENTY.name)[0][1] == r"refused: too \| fast"


def test_tests_that_another_device_ran_are_not_run_here() -> None:
    other = {**spark(), "tests": EVIDENCE["tests"][:1]}
    text = page.page([EVIDENCE, other])
    assert rows(text, "test_training::test_a") == [["passed", "passed"]]
    assert rows(text, "test_training::test_b") == [["not run", "failed: assert 1 == 2"]]


# --- files


def test_a_file_is_named_for_its_device_and_read_again(tmp_path: Path) -> None:
    without = {name: value for name, value in EVIDENCE.items() if name != "schema"}
    path = results.write(without, tmp_path)
    assert path == tmp_path / "nvidia-h200.json"
    assert results.read_all(tmp_path) == [EVIDENCE]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}'])
def test_a_file_that_is_no_evidence_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "nvidia-h200.json").write_text(text)
    with pytest.raises(ValueError, match=r"nvidia-h200\.json is no"):
        results.read_all(tmp_path)


def test_the_committed_files_tell_what_they_must() -> None:
    for path in results.FOLDER.glob("*.json"):
        found = json.loads(path.read_bytes())
        assert path == results.path_of(found["stack"]["device"]["name"])
        assert set(found) == set(EVIDENCE)


def test_the_digest_is_of_what_decides_the_numbers(tmp_path: Path) -> None:
    for name in ("runner/plan/memory.py", "benchmarks/gpu/child.py", "docs/a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = results.sources_digest(tmp_path)
    (tmp_path / "docs/a.md").write_text("2")
    assert results.sources_digest(tmp_path) == before
    (tmp_path / "runner/plan/memory.py").write_text("2")
    assert results.sources_digest(tmp_path) != before


def test_every_pattern_of_sources_finds_some() -> None:
    for pattern in results._SOURCES:
        assert list(ROOT.glob(pattern)), pattern
