"""What models took, and what a hundredth of a measure cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.compare.candidates import candidates
from runner.compare.result import as_data
from runner.report.compare_html import as_html
from runner.report.compare_text import cost_rows, price_lines
from runner.verify.run import open_run
from tests.evaluated_runs import questions, rows, write_evaluated_run
from tests.finished_runs import change_record

HALF_RIGHT = questions([(False, True), (False, False)] * 30)


def run_of(tmp_path: Path, name: str, seconds: float, hits: Any = HALF_RIGHT, **train: Any) -> Path:
    run = write_evaluated_run(tmp_path / name, name, hits)
    measures = {
        "fetch": {"parameters": 8_030_000_000},
        "train": {"peak_memory": 21_500_000_000},
        "evaluate": {"peak_memory": 17_200_000_000},
    }
    record = json.loads((run / "run.json").read_text())
    for stage in record["stages"]:
        stage["measures"] = {**stage["measures"], **measures.get(stage["name"], {})}
        stage |= {"seconds": 1.0, "action": "run"}
        if stage["name"] == "train":
            stage |= {"seconds": seconds, **train}
    hardware = {"processor": "A CPU", "gpus": [{"name": "NVIDIA GB10"}]}
    change_record(run, stages=record["stages"], hardware=hardware)
    return run


def compared(*runs: Path) -> dict[str, Any]:
    return as_data(candidates([open_run(run) for run in runs]))


def prices(data: dict[str, Any], first: str, second: str) -> list[dict[str, Any]]:
    (found,) = (
        each for each in data["comparisons"] if (each["first"], each["second"]) == (first, second)
    )
    priced: list[dict[str, Any]] = found["prices"]
    return priced


def test_time_and_memory_stand_beside_the_values(tmp_path: Path) -> None:
    data = compared(run_of(tmp_path, "small", 1800), run_of(tmp_path, "large", 12_600))
    assert cost_rows(data) == [
        ["parameters", "8.0 B", "8.0 B", "8.0 B"],
        ["training took", "-", "30 min", "3 h 30 min"],
        ["training, memory at its peak", "-", "21.5 GB", "21.5 GB"],
        ["measuring, memory at its peak", "17.2 GB", "17.2 GB", "17.2 GB"],
        ["on", "NVIDIA GB10", "NVIDIA GB10", "NVIDIA GB10"],
    ]


def test_a_hundredth_costs_the_time_by_what_was_gained(tmp_path: Path) -> None:
    (price,) = prices(compared(run_of(tmp_path, "small", 1800)), "base", "small")
    assert price["measure"] == "questions_hit"
    assert price["seconds"] == pytest.approx(1800 / 50)
    assert price["low"] < price["seconds"] < price["high"]


def test_a_larger_model_is_paid_for_by_the_time_that_it_took_longer(tmp_path: Path) -> None:
    all_right = questions([(False, True)] * 60)
    data = compared(run_of(tmp_path, "small", 1800), run_of(tmp_path, "large", 7800, all_right))
    (price,) = prices(data, "small", "large")
    assert price["seconds"] == pytest.approx((7800 - 1800) / 50)
    assert prices(data, "base", "large")[0]["seconds"] == pytest.approx(7800 / 100)


@pytest.mark.parametrize(
    "hits",
    [
        questions([(True, False)] * 60),  # worse
        questions([(False, True), (True, False)] * 30),  # no difference shown
        questions([(False, True)] * 20),  # too few
    ],
)
def test_what_is_not_better_has_no_price(tmp_path: Path, hits: Any) -> None:
    assert prices(compared(run_of(tmp_path, "small", 1800, hits)), "base", "small") == []


def test_better_in_less_time_has_no_price(tmp_path: Path) -> None:
    all_right = questions([(False, True)] * 60)
    data = compared(run_of(tmp_path, "slow", 7800), run_of(tmp_path, "quick", 60, all_right))
    assert prices(data, "slow", "quick") == []


def test_a_training_that_was_reused_took_what_it_took_in_the_run_that_did_it(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path, "small", 0.0, action="reuse")
    assert compared(run)["models"][-1]["cost"]["train_seconds"] is None
    other = shutil.copytree(run, run.parent / "0")
    record = json.loads((other / "run.json").read_text())
    for stage in record["stages"]:
        if stage["name"] == "train":
            stage |= {"action": "run", "seconds": 600.0}
    change_record(other, stages=record["stages"])
    (run.parent / "broken").mkdir()
    (run.parent / "broken" / "run.json").write_text("{")
    assert compared(run)["models"][-1]["cost"]["train_seconds"] == 600
    for stage in record["stages"]:
        if stage["name"] == "train":
            stage["key"] = "f" * 64  # another training
    change_record(other, stages=record["stages"])
    assert compared(run)["models"][-1]["cost"]["train_seconds"] is None


def test_of_a_training_that_was_interrupted_the_last_part_is_known(tmp_path: Path) -> None:
    data = compared(run_of(tmp_path, "small", 1800, action="resume"))
    assert cost_rows(data)[1] == ["training took", "-", "at least 30 min"]


def test_an_older_run_that_says_nothing_of_it_is_compared_all_the_same(tmp_path: Path) -> None:
    run = write_evaluated_run(tmp_path / "old", "old", rows(40, -0.5))
    change_record(run, hardware=None)
    data = compared(run)
    assert all("training" not in row[0] for row in cost_rows(data))
    assert data["comparisons"][0]["prices"] == []


def test_both_reports_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, "small", 1800)
    assert main(["compare", str(run)]) == 0
    said = capsys.readouterr().out
    data = compared(run)
    (line,) = price_lines(data, data["comparisons"][0])
    assert line.startswith("  0.01 of questions: right: 36 s of training [")
    assert line in said
    assert "30 min" in said
    page = as_html(data)
    assert "What they took" in page
    assert line in page


def test_a_training_of_another_recipe_with_the_same_key_is_looked_up_there(tmp_path: Path) -> None:
    """As where one recipe trains, and another one, which extends it, compares."""
    trained = run_of(tmp_path, "trained", 5400, key="a" * 64)
    reused = run_of(tmp_path, "reused", 0.0, key="a" * 64, action="reuse")
    runs = tmp_path / "project" / "runs"
    for run, name in ((trained, "trained"), (reused, "reused")):
        shutil.copytree(run, runs / name / "1")
    (runs / "not-a-recipe").write_text("")
    _, tuned = candidates([open_run(runs / "reused" / "1")])
    assert tuned.cost.train_seconds == 5400
    runs.rename(tmp_path / "elsewhere")
    _, tuned = candidates([open_run(tmp_path / "elsewhere" / "reused" / "1")])
    assert tuned.cost.train_seconds is None  # what lies beside it may be anything
