"""What `ls`, `status`, `logs` and a slip of the pen are answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.execution.events import EventLog
from runner.execution.lacks import gb
from runner.execution.run_folder import RunFolder
from runner.report.summary import _speed_line
from runner.runs.progress import at_work

KEY = "0" * 64
HOLDER = "process 7 (recipe run \x1b[2Jx.yaml)"


def event(stage: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "event": kind, **more}


BEGAN = event("train", "stage", state="start", key=KEY)
WAITS = {**event("train", "waiting", holder=HOLDER), "for": "the device"}


def a_run(folder: Path, *events: dict[str, Any], **record: Any) -> RunFolder:
    """One that goes on until it is closed."""
    run = RunFolder(folder / "runs" / "x")
    log = EventLog(run.events)
    for each in events:
        log.append(each)
    log.close()
    run.write_record({"state": "running", **record})
    return run


def test_who_waits_for_the_device_says_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path, event("prepare", "stage", state="done", key=KEY), WAITS)
    words = "train: waiting for the device, held by process 7 (recipe run "
    for command in ("ls", "status"):
        assert main([command]) == 0
        said = capsys.readouterr().out
        assert words in said
        assert "\x1b" not in said
    assert main(["status", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["at_work"]
    assert found == {"stage": "train", "for": "the device", "holder": HOLDER}
    run.close()


def test_who_has_got_the_device_waits_no_more() -> None:
    assert at_work([WAITS, BEGAN]) == {"stage": "train"}
    step = event("train", "progress", step=3, total=40)
    assert at_work([WAITS, BEGAN, step]) == {"stage": "train", "step": 3, "total": 40}


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    run = a_run(tmp_path, error={"code": "E379", "message": "cannot wait at 10.0.0.1"})
    run.close()
    return run.path


def write_logs(run: Path) -> None:
    for name in (
        *("recipe.log", "prepare-01-prepare.log", "train-01-train.log", "train-02-more.log"),
        *("prepare-01-prepare.spec.json", "train-01-train.spec.json"),
    ):
        (run / "logs" / name).write_text(f"words of {name}\n")


def test_the_last_stage_is_shown_and_the_others_named(
    logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_logs(logged)
    assert main(["logs", str(logged)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("logs of train; of others: recipe logs ")
    shown = [line for line in said.splitlines() if line.startswith("words of ")]
    assert shown == [
        f"words of {name}.log" for name in ("recipe", "train-01-train", "train-02-more")
    ]
    assert "STAGE is prepare; " in said


def test_a_stage_that_is_named_is_shown_alone_and_without_what_it_was_told(
    logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_logs(logged)
    assert main(["logs", str(logged), "prepare"]) == 0
    said = capsys.readouterr().out
    assert said == "==> prepare-01-prepare.log <==\nwords of prepare-01-prepare.log\n"


def test_all_stages_are_followed(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_logs(logged)
    assert main(["logs", "-f", str(logged)]) == 0
    said = capsys.readouterr().out
    assert said.count("words of ") == 4
    assert "spec.json" not in said


def test_where_no_program_has_run_the_reason_is_shown(
    logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", str(logged)]) == 0
    said = capsys.readouterr().out
    assert "error[E379]" in said
    assert "cannot wait at 10.0.0.1" in said


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["plann", "x.yaml"], "did you mean plan?"),
        (["plan", "x.yaml", "--hardwear", "all"], "did you mean --hardware?"),
        (["run", "x.yaml", "--shrnk"], "did you mean --shrink?"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_the_word(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("words", [["zzzzzzzzz"], ["plan", "x.yaml", "--zzzzzzzzz"]])
def test_a_word_that_is_near_to_nothing_is_not_guessed_at(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_sizes_that_no_disk_has_are_terabytes() -> None:
    assert gb(790_906_200_000_000) == "790.9 TB"
    assert gb(3_840_000_000_000) == "3840.0 GB"


@pytest.mark.parametrize("rate", [0, {"median": 0.0, "min": 0.0}])
def test_a_model_that_gave_no_token_has_no_speed(rate: Any) -> None:
    speed = {"generation_tokens_per_second": rate, "time_to_first_token": 0.0941, "runs": 3}
    assert "not measured" in _speed_line(speed)
    assert "0.0941" not in _speed_line(speed)


def test_a_model_that_gave_tokens_has_a_speed() -> None:
    speed = {"generation_tokens_per_second": 41.26, "time_to_first_token": 0.5, "runs": 3}
    assert "41.3 tokens/s, first token after 0.5 s (median of 3)" in _speed_line(speed)
