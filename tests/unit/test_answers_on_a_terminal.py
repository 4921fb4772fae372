"""A model may say anything; a terminal is shown it with every control character escaped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from runner.report.progress import step_details
from runner.report.summary import render_summary, summary

SAID = "\x1b[2Jgone\x0e \u202eback"


def test_a_message_that_quotes_an_answer_is_escaped() -> None:
    shown = step_details({"step": 1, "total": 1, "message": f"answered: {SAID}"})
    assert shown.startswith("answered: \\x1b[2Jgone\\x0e \\u202eback")


def test_the_table_of_answers_is_escaped(tmp_path: Path) -> None:
    record = {"state": "done", "recipe": "t", "stages": [], "resolved": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}}))
    (tmp_path / "evaluation").mkdir()
    answer = {"question": "q", "base": SAID, "tuned": SAID}
    (tmp_path / "evaluation" / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    stream = io.StringIO()
    render_summary(summary(tmp_path), stream)
    assert "\\x1b[2Jgone\\x0e" in stream.getvalue()
    assert not set(stream.getvalue()) & set("\x1b\x0e\u202e")


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            {"loss_last_step": 0.5, "margins_last_step": 1.25, "kl_last_step": 0.125},
            "last step         loss 0.500, margin 1.250, KL 0.125\n",
        ),
        ({"loss_last_step": 0.5}, ""),
    ],
)
def test_the_last_step_is_told_where_more_than_the_loss_is_known(
    measured: dict[str, float], said: str, tmp_path: Path
) -> None:
    stage = {"name": "train", "action": "run", "seconds": 1, "measures": measured, "material": {}}
    record = {"state": "done", "recipe": "t", "stages": [stage], "resolved": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}}))
    stream = io.StringIO()
    render_summary(summary(tmp_path), stream)
    assert said in stream.getvalue()
    assert ("last step" in stream.getvalue()) is bool(said)


def test_the_name_of_the_recipe_is_on_one_line(tmp_path: Path) -> None:
    record = {"state": "done", "recipe": "a-name-that-is-wider-than-the-table", "stages": []}
    (tmp_path / "run.json").write_text(json.dumps(record | {"resolved": {}}))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}}))
    stream = io.StringIO()
    render_summary(summary(tmp_path), stream)
    assert stream.getvalue().startswith("a-name-that-is-wider-than-the-table: done\n")


def test_expected_answers_are_marked(tmp_path: Path) -> None:
    record = {"state": "done", "recipe": "t", "stages": [], "resolved": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}}))
    (tmp_path / "evaluation").mkdir()
    rows = [
        {"question": "q1", "expect": ["Pickle"], "base": "no idea", "tuned": "PICKLE!"},
        {"question": "q2", "base": "plain", "tuned": "plain"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "evaluation" / "answers.jsonl").write_text(text)
    stream = io.StringIO()
    render_summary(summary(tmp_path), stream)
    assert "✗ no idea" in stream.getvalue()
    assert "✓ PICKLE!" in stream.getvalue()
    assert stream.getvalue().count("✓") == stream.getvalue().count("✗") == 1


def preference_lines(tmp_path: Path, pairs: int, train: dict[str, str]) -> list[str]:
    measures: dict[str, object] = {"pairs": pairs, "few_pairs": pairs < 30}
    for name in ("preference_accuracy_base", "preference_accuracy_tuned"):
        measures |= {name: 1.0, f"{name}_low": 1.0, f"{name}_high": 1.0}
    measures["preference_margin_change"] = 4.19
    ends = (None, None) if pairs == 1 else (3.4391, 5.0432)
    measures |= dict(zip(("low", "high"), ends, strict=True))
    for end in ("low", "high"):
        measures[f"preference_margin_change_{end}"] = measures.pop(end)
    stage = {"name": "evaluate", "action": "run", "seconds": 1, "material": {}}
    record = {"state": "done", "recipe": "t", "resolved": {"train": train}}
    record["stages"] = [{**stage, "measures": measures}]
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}}))
    stream = io.StringIO()
    render_summary(summary(tmp_path), stream)
    return [
        line for line in stream.getvalue().splitlines() if line[:9] in ("preferred", "margin   ")
    ]


def test_one_held_out_pair_has_no_interval(tmp_path: Path) -> None:
    """Neither where there is none, nor the one without a width of older versions."""
    preferred, margin = preference_lines(tmp_path, 1, {"method": "dpo"})
    for line in (preferred, margin):
        assert line.endswith("(one example: there is no interval)")
        assert "95%" not in line


@pytest.mark.parametrize(
    ("train", "unit"),
    [
        ({"method": "dpo"}, "nats"),
        ({"method": "dpo", "loss_type": "ipo"}, "nats a token"),
        ({"method": "simpo"}, "nats a token"),
        ({"method": "reward"}, "points"),
    ],
)
def test_a_margin_has_its_unit(train: dict[str, str], unit: str, tmp_path: Path) -> None:
    _, margin = preference_lines(tmp_path, 40, train)
    assert f"+4.190 {unit} since the base  (95%: 3.439 to 5.043)" in margin


def test_what_was_measured_of_examples_is_shown_with_its_interval(tmp_path: Path) -> None:
    def measured(count: int, low: float | None) -> dict[str, object]:
        change = {"value": -0.05, "low": low, "high": None if low is None else 0.02}
        sides = {"base": {"value": 0.8}, "tuned": {"value": 0.75}, "change": change}
        return {"count": count, "few": count < 30, **sides}

    examples = {"general_hit": measured(40, -0.1), "sound": measured(1, None)}
    stage = {"name": "evaluate", "action": "run", "seconds": 1, "material": {}}
    stage["measures"] = {"examples": examples}
    record = {"state": "done", "recipe": "t", "stages": [stage], "resolved": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}}))
    stream = io.StringIO()
    render_summary(summary(tmp_path), stream)
    lines = [line for line in stream.getvalue().splitlines() if "before" in line]
    assert lines == [
        "sound form        0.8 before, 0.75 after  too few: 1",
        "general prompts   0.8 before, 0.75 after  (95% of the change: -0.1 to 0.02)",
    ]


def test_what_a_method_is_judged_by_is_told_of_every_step() -> None:
    told = {"margins": 0.5, "accuracies": 0.75, "scores": 1.25, "kl": 0.0625, "entropy": 2.0}
    shown = step_details({"step": 1, "total": 2, "loss": 0.25, "reward": 1.0, **told})
    assert shown == (
        "loss 0.250  reward 1.000  margin 0.500  accuracy 0.750  score 1.250  KL 0.062  "
        "entropy 2.000"
    )
