"""What a model of a run took: time, memory, and how much of both for what it is better by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.execution.run_folder import runs_newest_first
from runner.system.regular import NotReadable, read_regular
from runner.verify.run import MAX_BYTES, Run

if TYPE_CHECKING:
    from runner.compare.candidates import Candidate
    from runner.compare.differences import Difference

HUNDREDTH = 0.01  # of a measure: a point in a hundred of a share, 0.01 nats of a loss
RUNS = "runs"
_LOOKED_AT = 100  # runs of a recipe beside one whose training was reused, newest first


@dataclass(frozen=True)
class Cost:
    """Of one model; None where nobody knows. Seconds and bytes.

    `train_seconds` is of this training alone, not of what it started from; `at_least`: a part of it
    was done before an interruption. `answer_memory`: the peak while base and tuned model were
    measured, one after the other.
    """

    parameters: int | None = None
    train_seconds: float | None = None
    at_least: bool = False
    train_memory: int | None = None
    answer_memory: int | None = None
    hardware: str = ""

    def as_data(self) -> dict[str, Any]:
        """For reports."""
        return {
            "parameters": self.parameters,
            "train_seconds": self.train_seconds,
            "at_least": self.at_least,
            "train_memory": self.train_memory,
            "answer_memory": self.answer_memory,
            "hardware": self.hardware,
        }


def costs_of(run: Run) -> tuple[Cost, Cost]:
    """Of the base of a run, which is only asked, and of what the run trained."""
    parameters = _whole(_measure(run, "fetch", "parameters"))
    answering = _whole(_measure(run, "evaluate", "peak_memory"))
    base = Cost(parameters, answer_memory=answering, hardware=_hardware(run.record))
    seconds, whole = _train_seconds(run)
    memory = _whole(_measure(run, "train", "peak_memory"))
    tuned = Cost(parameters, seconds, not whole, memory, answering, base.hardware)
    return base, tuned


def prices(
    first: Candidate, second: Candidate, found: list[Difference]
) -> Iterator[dict[str, Any]]:
    """Of each measure in which `second` is better: seconds of training for a hundredth of it.

    Between two trained models it is the time that the second took longer; nothing is said where it
    took less, nor where the interval of the difference has both signs.
    """
    spent = second.cost.train_seconds
    if first.side == "tuned":
        before = first.cost.train_seconds
        spent = None if spent is None or before is None else spent - before
    if spent is None or spent <= 0:
        return
    for each in found:
        known = each.estimate
        if each.verdict != "better" or known is None or known.low is None or known.high is None:
            continue
        sizes = sorted(abs(bound) / HUNDREDTH for bound in (known.low, known.high))
        yield {
            "measure": each.measure.name,
            "seconds": spent / (abs(known.value) / HUNDREDTH),
            "low": spent / sizes[1],
            "high": spent / sizes[0],
        }


def _train_seconds(run: Run) -> tuple[float | None, bool]:
    """How long the training took, in this run or in the one that its result is from; was that all
    of it?"""
    own = _stage(run.record, "train")
    if own.get("action") in ("run", "resume"):
        return _number(own.get("seconds")), own["action"] == "run"
    for record in _records_beside(run):
        there = _stage(record, "train")
        if there.get("key") == own.get("key") and there.get("action") in ("run", "resume"):
            return _number(there.get("seconds")), there["action"] == "run"
    return None, True


def _records_beside(run: Run) -> Iterator[Mapping[str, Any]]:
    """run.json of the recipe's other runs, newest first; then those of the other recipes."""
    own = run.folder.resolve().parent
    others = _folders(own.parent) if own.parent.name == RUNS else []
    for recipe in (own, *sorted(each for each in others if each != own)):
        yield from _records_in(recipe)


def _records_in(recipe: Path) -> Iterator[Mapping[str, Any]]:
    for folder in runs_newest_first(recipe)[:_LOOKED_AT]:
        try:
            record = json.loads(read_regular(folder / "run.json", MAX_BYTES))
        except (NotReadable, OSError, ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return


def _stage(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    stages = record.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict) and stage.get("name") == name:
            return stage
    return {}


def _measure(run: Run, stage: str, name: str) -> Any:
    measures = _stage(run.record, stage).get("measures")
    return measures.get(name) if isinstance(measures, dict) else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value > 0 else None


def _hardware(record: Mapping[str, Any]) -> str:
    """The first GPU, or else the processor."""
    told = record.get("hardware")
    if not isinstance(told, dict):
        return ""
    gpus = told.get("gpus")
    if isinstance(gpus, list) and gpus and isinstance(gpus[0], dict):
        return str(gpus[0].get("name", ""))
    return str(told.get("processor", ""))
