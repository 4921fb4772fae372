"""Measure everything on one GPU, each case in a process of its own, and put the evidence together.

Standard library only.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import children, gpu_tests, memory, results, seventy, throughput
from benchmarks.gpu.cases import CASES, SEVENTY, Case
from benchmarks.gpu.children import DONE, NOT_RUN, Outcome
from benchmarks.gpu.interpreter import Chosen
from runner.system import determinism, hardware

LEAST_SECONDS = 10  # in less nothing is begun
FOR_TESTS = 0.3  # of the time, kept for tests/gpu
# The 70B first behind the smallest: it is what most depends on, and what takes longest.
ORDER = (CASES[0], SEVENTY, *CASES[1:])

Say = Callable[[str], None]
Run = Callable[[Sequence[str], dict[str, str], Path, float], Outcome]


@dataclass(frozen=True)
class Clock:
    """The time for everything: when it ends, and how much of it is the tests' own."""

    end: float
    for_tests: float

    @classmethod
    def of(cls, seconds: float) -> Clock:
        """From now on."""
        return cls(time.monotonic() + seconds, FOR_TESTS * seconds)

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    @property
    def left_for_cases(self) -> float:
        """Seconds until the tests must begin."""
        return self.left - self.for_tests


def measure(
    chosen: Chosen,
    driver: str,
    clock: Clock,
    cases: Sequence[Case] = ORDER,
    *,
    say: Say = print,
    run: Run = children.run,
) -> dict[str, Any]:
    """The evidence of one device, as results.py writes it: the cases, then tests/gpu."""
    rows = rows_of(cases, chosen, clock, say=say, run=run)
    say("tests/gpu …")
    return {
        "stack": {**chosen.stack, "driver": driver},
        "locked": chosen.locked,
        "sources": results.sources_digest(),
        "cases": sorted(rows, key=lambda row: str(row["name"])),
        "tests": gpu_tests.outcomes(chosen.python, clock.left, run),
    }


def rows_of(
    cases: Sequence[Case],
    chosen: Chosen,
    clock: Clock,
    *,
    say: Say = print,
    run: Run = children.run,
) -> list[dict[str, Any]]:
    """A row of each case, which is told as it comes."""
    rows = []
    for case in cases:
        say(f"{case.name} …")
        rows.append(row_of(case, chosen, clock, run))
        say(f"  {summary(rows[-1])}")
    return rows


def row_of(case: Case, chosen: Chosen, clock: Clock, run: Run = children.run) -> dict[str, Any]:
    """What came of one case: the comparison, or why there is none."""
    device = chosen.stack["device"]
    row: dict[str, Any] = {"name": case.name, "case": asdict(case)}
    outcome = Outcome(NOT_RUN, memory.too_large(case, device["memory"]))
    if not outcome.reason:
        outcome = _outcome(case, chosen, clock, run)
    if outcome.state != DONE:
        return {**row, "state": outcome.state, "reason": outcome.reason}
    answer = outcome.answer
    found = memory.compared(case, answer["phases"], answer["device"], device["unified"])
    row |= {"state": DONE, "phases": found}
    row |= {"speed": throughput.speed(case, answer["events"], device["name"])}
    return seventy.row_of(row) if case == SEVENTY else row


def _outcome(case: Case, chosen: Chosen, clock: Clock, run: Run) -> Outcome:
    if clock.left_for_cases < LEAST_SECONDS:
        return Outcome(NOT_RUN, "the time for all cases was up")
    with tempfile.TemporaryDirectory(prefix="gpu-evidence-") as name:
        answer = Path(name) / "answer.json"
        argv = [str(chosen.python), "-W", "ignore", "-m", "benchmarks.gpu.child"]
        argv += [json.dumps(asdict(case)), str(answer)]
        return run(argv, script_env(Path(name)), answer, min(case.seconds, clock.left_for_cases))


def script_env(home: Path) -> dict[str, str]:
    """As the product starts its scripts; nothing is read from, or written to, the user's home."""
    threads = determinism.thread_count(hardware.available_cpus())
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(results.ROOT)}
    return {**os.environ, **determinism.script_env(threads), **own}


def summary(row: dict[str, Any]) -> str:
    """One line of a row."""
    if row["state"] != DONE:
        return f"{row['state']}: {row['reason']}"
    return ", ".join(_phases(row["phases"]))


def _phases(phases: dict[str, Any]) -> Iterator[str]:
    for name, phase in phases.items():
        gigabytes = f"{phase['measured'] / 1e9:.2f} GB of {phase['predicted'] / 1e9:.2f} GB planned"
        yield f"{name} {gigabytes} ({phase['ratio']:.2f})"
