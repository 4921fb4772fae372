"""`recipe lock --check` of many recipes: what is stale, in every format, without asking anybody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli.main import main
from tests.small_recipe import RECIPE, lock, write_recipe

HUB = "{hub: me/model, revision: %s}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b"):
        write_recipe(tmp_path / name / "x.yaml")
        lock(tmp_path / name / "x.yaml")
    (tmp_path / "a" / "unlocked.yaml").write_text(RECIPE)
    run = tmp_path / "runs" / "t" / "1"
    run.mkdir(parents=True)
    (run / "run.json").touch()
    (run / "recipe.lock.yaml").write_text("lock: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["lock", "--check", *arguments])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, captured.out


def test_a_folder_without_locks_is_not_called_fresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", "--check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "there is no lock here; `recipe lock RECIPE` writes one\n"


def test_fresh_locks_below_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, ".") == (0, "2 locks checked: all fresh\n")
    assert check(capsys, "a/x.yaml") == (0, "1 lock checked: all fresh\n")
    assert check(capsys, "a/x.lock.yaml", "a/x.yaml") == (0, "1 lock checked: all fresh\n")


def test_every_stale_entry_is_told_with_what_to_type(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "b" / "rows.jsonl").write_text('{"instruction": "other", "output": "a"}\n')
    (project / "b" / "x.yaml").write_text(RECIPE.replace("max_steps: 4", "max_steps: 5"))
    code, out = check(capsys, ".")
    assert code == 5
    assert "b/x.lock.yaml: error[E802]: stale: recipe.train.max_steps: 4 → 5\n" in out
    assert "b/x.lock.yaml: error[E802]: stale: files.rows.jsonl: " in out
    assert "  hint: lock the recipe again: recipe lock b/x.yaml\n" in out
    assert out.endswith("2 locks checked: 1 not fresh\n")
    code, out = check(capsys, ".", "--format", "github")
    assert code == 5
    assert out.startswith("::error file=b/x.lock.yaml,title=E802::stale: ")
    code, out = check(capsys, ".", "--format", "json")
    report = json.loads(out)
    assert (code, report["files"], report["errors"]) == (5, 2, 2)
    assert {each["code"] for each in report["diagnostics"]} == {"E802"}


def test_a_named_recipe_must_have_a_lock(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, "a/unlocked.yaml")
    assert code == 5
    assert "error[E802]: the recipe has no lock\n  hint: write it: recipe lock a/unlocked" in out


def test_what_cannot_be_read_ends_with_2(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "a" / "x.lock.yaml").write_text("lock: 1\n")
    code, out = check(capsys, ".")
    assert (code, "error[E801]" in out) == (2, True)
    lock(project / "b" / "x.yaml")
    (project / "a" / "x.yaml").write_text(RECIPE.replace("max_steps", "max_stops"))
    code, out = check(capsys, ".")
    assert (code, "a/x.yaml:5:32: error[E102]" in out) == (2, True)


def test_a_lock_whose_recipe_is_gone_is_checked_by_itself(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "a" / "x.yaml").unlink()
    assert check(capsys, ".") == (0, "2 locks checked: all fresh\n")
    (project / "a" / "rows.jsonl").write_text('{"instruction": "other", "output": "a"}\n')
    assert check(capsys, ".")[0] == 5


def test_offline_a_branch_is_the_commit_in_the_lock(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "a" / "x.yaml"
    data = RECIPE.replace("{path: rows.jsonl, format: alpaca}", "%s")
    by_commit = data.replace("{path: model}", HUB % ("a" * 40))
    rows = "{hub: me/rows, revision: %s, file: r.jsonl, format: alpaca}"
    path.write_text(by_commit % (rows % ("b" * 40)))
    lock(path)
    path.write_text(data.replace("{path: model}", HUB % "main") % (rows % "v1"))
    assert check(capsys, "--offline", "a") == (0, "1 lock checked: all fresh\n")
    path.write_text(path.read_text().replace("me/model", "me/other"))
    code, out = check(capsys, "--offline", "a")
    assert code == 5
    assert "recipe.model.hub: me/model → me/other" in out
    path.write_text(by_commit.replace("a" * 40, "c" * 40) % (rows % "v1"))
    assert "recipe.model.revision" in check(capsys, "--offline", "a")[1]


@pytest.mark.parametrize("options", [["--offline"], ["--format", "json"], ["b/x.yaml"]])
def test_what_only_a_check_has_is_refused_elsewhere(
    options: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", "a/x.yaml", *options]) == 2
    assert "only with --check" in capsys.readouterr().err
