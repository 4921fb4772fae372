"""Run tests/gpu with the chosen interpreter for the scripts, and read what became of each test."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

from benchmarks.gpu.children import FAILED, NOT_RUN, Outcome
from benchmarks.gpu.interpreter import NAMED
from benchmarks.gpu.results import ROOT

PASSED = "passed"
SECONDS = 300
NEEDS = ("pytest", "hypothesis", "numpy", "safetensors")  # of the interpreter that runs pytest

Run = Callable[[Sequence[str], dict[str, str], Path, float], Outcome]


def outcomes(python: Path, seconds: float, run: Run) -> list[dict[str, str]]:
    """One row a test: name, state, reason. One row for all of them where they did not run."""
    absent = [name for name in NEEDS if find_spec(name) is None]
    if absent:
        return [_row("tests/gpu", NOT_RUN, f"{', '.join(absent)} is not installed")]
    if seconds <= 0:
        return [_row("tests/gpu", NOT_RUN, "the time for all cases was up")]
    with tempfile.TemporaryDirectory(prefix="gpu-evidence-") as name:
        report = Path(name) / "junit.xml"
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(ROOT / "tests" / "gpu"),
        ]
        argv += ["--rootdir", str(ROOT), f"--junitxml={report}", f"--basetemp={name}/tests"]
        env = {**os.environ, NAMED: str(python), "PYTHONPATH": str(ROOT)}
        ended = run(argv, env, Path(name) / "answer.json", min(SECONDS, seconds))
        if report.is_file():
            return rows_of(report.read_text(encoding="utf-8"))
        return [_row("tests/gpu", FAILED, ended.reason)]


def rows_of(report: str) -> list[dict[str, str]]:
    """The tests of a JUnit report, in the order of their names."""
    return sorted(map(_of_case, Tree.fromstring(report).iter("testcase")), key=_name)


def _of_case(case: Any) -> dict[str, str]:
    name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
    for kind, state in (("failure", FAILED), ("error", FAILED), ("skipped", NOT_RUN)):
        if (found := case.find(kind)) is not None:
            return _row(name, state, (found.get("message") or "").splitlines()[0][:300])
    return _row(name, PASSED, "")


def _row(name: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "state": state, "reason": reason}


def _name(row: dict[str, str]) -> str:
    return row["name"]
