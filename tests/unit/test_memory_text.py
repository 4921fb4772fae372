"""The memory of a run by kind: planned, measured, and by step, from run.json and the events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.logs import print_memory
from runner.report.memory_text import memory_lines, memory_report, summary_line, timeline
from runner.runs.known import KnownRun

KINDS = {"weights": 4, "trained": 1, "gradients": 1, "optimizer": 2, "rest": 3, "peak": 11}


def step(number: int, **kinds: int) -> dict[str, Any]:
    found = {f"memory_{kind}": size * 10**9 for kind, size in (KINDS | kinds).items()}
    return {"stage": "train", "event": "progress", "step": number, "total": 90, **found}


def record(**more: Any) -> dict[str, Any]:
    measures = {"memory_by_phase": {"train": {"peak": 11_000_000_000}}}
    return {
        "planned_memory": {"train": {"weights": 8_000_000_000, "process": 900_000_000}},
        "stages": [
            {"name": "train", "measures": measures},
            {"name": "evaluate", "measures": {"peak_memory": 5_000_000_000}},
        ],
        **more,
    }


def test_planned_and_measured_stand_side_by_side() -> None:
    lines = list(memory_lines(memory_report(record(), [step(1)])))
    assert lines[0].startswith("GB ")
    assert lines[1].split()[:3] == ["train", "8.90", "11.00"]
    assert lines[1].endswith("weights 8.00, process 0.90")
    assert lines[2].split() == ["evaluate", "-", "5.00"]
    assert lines[-1].split() == ["1", *["4.00", "1.00", "1.00", "2.00", "3.00", "11.00", "-", "-"]]
    assert summary_line(record()) == (
        "memory            11.00 GB at the peak of the training, planned 8.90 GB"
    )


def test_a_run_at_work_is_told_from_its_events() -> None:
    told = {"stage": "train", "event": "measure", "values": {"memory_by_phase": {"load": KINDS}}}
    report = memory_report({"stages": []}, [told, step(1), step(2)])
    assert report["phases"]["load"] == {"planned": None, "measured": KINDS}
    assert [each["step"] for each in report["steps"]] == [1, 2]


def test_steps_that_were_trained_again_count_once_as_they_were_last() -> None:
    steps = timeline([step(1), step(2), step(2, peak=12), {"stage": "merge", "event": "progress"}])
    assert [each["step"] for each in steps] == [1, 2]
    assert steps[1]["peak"] == 12 * 10**9


def test_of_many_steps_a_page_is_shown_with_the_last() -> None:
    report = memory_report(record(), [step(number) for number in range(1, 91)])
    shown = list(memory_lines(report))
    assert len(report["steps"]) == 90
    assert len(shown) < 45
    assert shown[-1].split()[0] == "90"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"shrink": {"/model/path": "x"}}, "a shrunken twin is small whatever the model"),
        ({}, "the model's sizes were not known when the run began"),
    ],
)
def test_a_small_run_is_told_in_mb_and_why_nothing_was_planned(
    more: dict[str, Any], why: str
) -> None:
    small = {"peak": 4_200_000, "weights": 30_000}
    found = {"stages": [{"name": "train", "measures": {"memory_by_phase": {"train": small}}}]}
    tiny = dict.fromkeys(KINDS, 0) | {"weights": 30_000, "peak": 4_200_000}
    event = {"stage": "train", "event": "progress", "step": 1, "total": 9}
    report = memory_report(found | more, [event | {f"memory_{k}": v for k, v in tiny.items()}])
    lines = list(memory_lines(report))
    assert lines[0].startswith("MB ")
    assert lines[1].split() == ["train", "-", "4.20"]
    assert lines[2].startswith(f"nothing was planned: {why}")
    assert lines[-2].endswith("  (MB)")
    assert lines[-1].split()[1] == "0.03"
    planned = memory_report(record(), [])
    assert planned["unplanned"] is None
    assert not any("nothing was planned" in line for line in memory_lines(planned))


@pytest.mark.parametrize("found", [{}, {"stages": [{"name": "train", "measures": {}}]}])
def test_an_older_run_has_nothing_to_show(found: dict[str, Any]) -> None:
    assert "nothing is known" in next(memory_lines(memory_report(found, [])))
    assert summary_line(found) is None


def test_the_command_prints_json_also_of_a_torn_event_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.jsonl").write_text(json.dumps(step(1)) + '\n{"stage": "tr')
    run = KnownRun(tmp_path, record(), alive=False)
    print_memory(run, "json")
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert [each["step"] for each in found["steps"]] == [1]
    print_memory(KnownRun(tmp_path / "gone", {}, alive=False), "text")
    assert "nothing is known" in capsys.readouterr().out
