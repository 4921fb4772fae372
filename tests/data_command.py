"""A file of rows, and `recipe data` on the command line, for the tests of its commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.cli.main import main

GOOD = [{"question": f"Q{number}", "reply": "A"} for number in range(3)]


def good_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    return tmp_path / "rows.jsonl"


def run(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["data", *words])
    out, err = capsys.readouterr()
    return code, out, err
