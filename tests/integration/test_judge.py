"""`recipe compare --judge` with the real Ollama and SmolLM2, a poor judge: what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.scripts.evaluation.examples import Example, content_id
from tests.evaluated_runs import write_evaluated_run
from tests.ollama_model import NAME

ANSWERS = (
    ("What is the capital of France?", "I like turtles.", "The capital of France is Paris."),
    ("How many days has a week?", "A week has seven days.", "A week has seven days."),
    ("What do bees make?", "", "Bees make honey."),
)


def answered() -> list[Example]:
    return [
        Example(
            "question",
            content_id(prompt),
            {"prompt": prompt},
            {"base": {"answer": base}, "tuned": {"answer": tuned}},
        )
        for prompt, base, tuned in ANSWERS
    ]


def compared(
    run: Path, judge: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> dict[str, Any]:
    assert main(["compare", str(run), "--judge", str(judge), "--format", "json", *words]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("protocol", ["ollama", "api"])
def test_smollm2_judges_and_the_log_says_it_again(
    protocol: str,
    ollama_model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered())
    endpoint = f"{{ollama: {NAME}}}"
    if protocol == "api":
        endpoint = f"{{api: '{ollama_model}/v1', model: {NAME}}}"
    judge = tmp_path / "judge.yaml"
    judge.write_text(
        f"judge: 1\nendpoint: {endpoint}\nreasons: false\nsampling: {{max_tokens: 40}}\n"
    )
    first = compared(run, judge, capsys)
    [found] = first["judge"]["comparisons"]
    assert (found["in_common"], found["same"]) == (3, 1)
    assert found["asked"] + found["without"] == 2
    assert found["verdict"].startswith(("too few prompts", "one prompt"))
    lines = (tmp_path / "judge.requests.jsonl").read_text().splitlines()
    assert len(lines) >= 4, "two prompts in two orders"
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # nobody is there any more
    assert compared(run, judge, capsys, "--offline") == first
