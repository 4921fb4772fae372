"""Run tests/gpu with the chosen interpreter for the scripts, and read what became of each test."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.children import FAILED, NOT_RUN, Outcome
from benchmarks.gpu.interpreter import NAMED
from benchmarks.gpu.results import ROOT

PASSED = "passed"
REPORT = "EVIDENCE_REPORT"  # variable: where tests/gpu/conftest.py writes a line for each test
NEEDS = ("pytest", "hypothesis", "numpy", "safetensors")  # of the interpreter that runs pytest
LEAST_SECONDS = 10
_ALL = "tests/gpu"

Run = Callable[[Sequence[str], dict[str, str], Path, float], Outcome]


def outcomes(python: Path, seconds: float, run: Run) -> list[dict[str, str]]:
    """One row a test: name, state, reason. One row for those that did not end in time."""
    absent = [name for name in NEEDS if find_spec(name) is None]
    if absent:
        return [row(_ALL, NOT_RUN, f"{', '.join(absent)} is not installed")]
    if seconds < LEAST_SECONDS:
        return [row(_ALL, NOT_RUN, "the time for all was up")]
    with tempfile.TemporaryDirectory(prefix="gpu-evidence-") as name:
        report = Path(name) / "report.jsonl"
        report.touch()
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        argv += ["--rootdir", str(ROOT), f"--basetemp={name}/tests", str(ROOT / _ALL)]
        env = {**os.environ, NAMED: str(python), "PYTHONPATH": str(ROOT), REPORT: str(report)}
        # pytest writes no answer: whether it came to its end is its status, told in words
        ended = run(argv, env, Path(name) / "answer.json", seconds)
        return rows_of(report.read_text(encoding="utf-8"), ended.reason)


def rows_of(report: str, ended: str) -> list[dict[str, str]]:
    """The rows of a report, by name, and one for what is missing in it: `ended` says how the
    run of the tests ended."""
    found = sorted(map(json.loads, report.splitlines()), key=lambda each: str(each["name"]))
    if not found or "took longer" in ended or "ended by" in ended:
        found.append(row(f"{_ALL}, the others", FAILED, ended))
    return found


def row(name: str, state: str, reason: str = "") -> dict[str, str]:
    """Of one test."""
    return {"name": name, "state": state, "reason": reason}
