"""A model may say anything; a terminal is shown it with every control character escaped."""

from __future__ import annotations

import io
import json
from pathlib import Path

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
        "loss 0.250  reward 1.000  margin 0.500  accuracy 0.75  score 1.250  KL 0.062  "
        "entropy 2.000"
    )
