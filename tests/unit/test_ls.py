"""`recipe ls` where there is nothing to list."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli.main import main


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "no runs yet; begin one: recipe run RECIPE\n"), (["--running"], "no run goes on\n")],
)
def test_a_project_without_runs(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ls", *options]) == 0
    assert capsys.readouterr().out == said
