"""What this machine cannot do is said before the hub is asked, and instead of its silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.errors import StageFailed
from runner.execution import revisions
from runner.system import hardware

RECIPE = {
    "schema": 1,
    "name": "x",
    "model": {"hub": "acme/tiny"},
    "data": {"train": [{"path": "rows.jsonl", "format": "alpaca"}]},
    "train": {"adapter": {"type": "lora"}, "max_steps": 1, "bf16": True},
}
SILENT = StageFailed("the hub cannot be reached", code="E319")


class Hub:
    """One that never answers, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *question: Any) -> Any:
        self.asked += 1
        raise SILENT


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    (tmp_path / ".git").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (tmp_path / "x.yaml").write_text(json.dumps(RECIPE))
    monkeypatch.chdir(tmp_path)
    made = Hub()
    monkeypatch.setattr(revisions, "ask_hub", made)
    monkeypatch.setattr(hardware, "gpus", lambda *_: ())
    return made


UNSLOTH = ("--backend", "unsloth")
CASES = [
    (("run", "x.yaml", *UNSLOTH), "E960", 4, 0),
    (("bench", "train", "x.yaml", *UNSLOTH), "E960", 4, 0),
    (("run", "x.yaml", "--nodes", "2"), "E952", 2, 0),
    (("run", "x.yaml", "--nodes", "2", "--until", "prepare"), "E319", 1, 1),
    (("run", "x.yaml", *UNSLOTH, "--get"), "E319", 1, 1),
    (("run", "x.yaml", "--nodes", "2", "--rendezvous", "127.0.0.1:1"), "E319", 1, 1),
    (("run", "x.yaml"), "E319", 1, 1),
]


@pytest.mark.parametrize(("words", "code", "status", "asked"), CASES)
def test_the_hub_is_asked_where_its_answer_matters(
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: str,
    status: int,
    asked: int,
) -> None:
    assert main(words) == status
    assert f"error[{code}]" in capsys.readouterr().err
    assert hub.asked == asked


def test_of_what_may_be_stored_the_hub_is_asked_and_its_silence_explained(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "x" / "20270101-000000"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run.parent / "latest").symlink_to(run.name)
    assert main(["run", "x.yaml", "--nodes", "2"]) == 2
    assert "error[E952]" in capsys.readouterr().err
    assert hub.asked == 1
