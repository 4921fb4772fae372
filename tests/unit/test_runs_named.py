"""How runs are named by whoever types, and what is said of those that ended early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.compare.unevaluated import unevaluated
from runner.errors import UsageError
from runner.execution.run_folder import point_latest
from runner.recipe.load import load_recipe
from runner.runs.again import command_of
from runner.runs.known import chosen
from runner.verify.run import Run, open_run
from tests.bundles import SmallRun, small_run
from tests.unit.test_runs_shown import KEY, a_run, event

BUSY = {"code": "E600", "message": "the cpu is in use by process 7 (recipe run x.yaml)"}


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallRun:
    made = small_run(tmp_path)
    (made.project / ".git").mkdir(exist_ok=True)
    monkeypatch.chdir(made.project)
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolved(finished: SmallRun) -> dict[str, Any]:
    return load_recipe(finished.project / "small.yaml").resolved()


def ended(project: Path, *events: dict[str, Any], **record: Any) -> Path:
    run = a_run(project, *events, **record)
    run.close()
    return run.path


# --- as `recipe ls` prints them


def test_a_run_is_named_as_it_is_listed(
    finished: SmallRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = finished.folder.parent.name
    listed = Path(name, finished.folder.name)
    point_latest(finished.folder)
    for given in (listed, Path(name)):
        assert open_run(given).folder == finished.folder.resolve()
        assert chosen(finished.project, given).folder == finished.folder.resolve()
        assert main(["status", str(given)]) == 0
    (finished.project / name).mkdir()  # a folder of that name, which holds no run
    assert open_run(Path(name)).folder == finished.folder.resolve()
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(finished.store.root))
    assert main(["verify", str(listed)]) == 0
    assert main(["status", f"{name}/nothing"]) == 2
    assert "E930" in capsys.readouterr().err


# --- that have not ended


def test_a_run_at_work_is_to_be_waited_for(project: Path) -> None:
    run = a_run(project)
    for given in (run.path, run.path.parent):
        with pytest.raises(UsageError) as caught:
            open_run(given)
        assert "it is running" in caught.value.message
        assert caught.value.hint == (
            f"wait until it has: recipe status {run.path}, or recipe logs -f {run.path}"
        )
    run.close()
    with pytest.raises(UsageError) as caught:
        open_run(run.path)
    assert "run the recipe again" in caught.value.hint


# --- that ended early


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "did not begin: the cpu"),
        ([{"name": "fetch", "action": "reuse"}], "did not begin: the cpu"),
        ([{"name": "train", "action": "run"}], "did not go on: the cpu"),
    ],
)
def test_who_was_told_not_to_wait_has_not_failed(
    stages: list[Any], words: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(project, state="failed", error=BUSY, stages=stages)
    for command in ("ls", "status"):
        assert main([command]) == 0
        said = capsys.readouterr().out
        assert words in said
        assert "busy" in said
        assert "failed" not in said


def test_how_far_a_run_was_to_go_is_said(
    finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((finished.folder / "run.json").read_text())
    for until, said in (("prepare", True), (None, False), (last_stage(finished), False)):
        change = {**record, "state": "done", "resolved": resolved(finished), "until": until}
        (finished.folder / "run.json").write_text(json.dumps(change))
        assert main(["ls"]) == 0
        assert ("up to" in capsys.readouterr().out) == said


def last_stage(finished: SmallRun) -> str:
    from runner.stages import stages_of

    return stages_of(load_recipe(finished.project / "small.yaml"))[-1].NAME


@pytest.mark.parametrize(
    ("said", "until", "hint"),
    [
        ({"evaluate": None}, None, "run its recipe without --set evaluate=null; "),
        ({"evaluate": None}, "prepare", "run its recipe without --set evaluate=null and --until; "),
        ({"seed": 7}, "prepare", 'add "evaluate: {metrics: true}" to its recipe'),
    ],
)
def test_an_evaluation_that_the_command_line_took_out(
    said: dict[str, Any], until: str | None, hint: str, tmp_path: Path
) -> None:
    record = {"resolved": {"evaluate": None}, "set": said, "until": until, "stages": []}
    error = unevaluated(Run(tmp_path / "runs" / "x" / "1", record, {}))
    assert error.hint.startswith(hint)


# --- logs of what has none


def test_a_stage_without_a_log_says_why(
    finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ended(
        finished.project,
        event("fetch", "stage", state="reuse", key=KEY),
        event("prepare", "stage", state="start", key=KEY),
        resolved=resolved(finished),
        until="train",
    )
    for stage, words in (
        ("fetch", "fetch was reused"),
        ("prepare", "no program of prepare has said anything"),
        ("train", "train has not begun"),
    ):
        assert main(["logs", str(run), stage]) == 0
        assert capsys.readouterr().out.startswith(words)
    assert main(["logs", str(run), "merge"]) == 2
    said = capsys.readouterr().err
    assert "error[E008]" in said
    assert "its stages: fetch, prepare, train" in said


# --- what to type next


def test_the_next_command_works_where_it_is_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "x.yaml").touch()
    words = ["recipe", "run", "mine/x.yaml", "--shrink"]
    run = ended(project, state="failed", command=words, recipe_file="mine/x.yaml")
    assert main(["status", str(run)]) == 0
    assert "next: recipe run mine/x.yaml --shrink" in capsys.readouterr().out
    monkeypatch.chdir(project / "mine")
    assert main(["status", str(run)]) == 0
    assert f"next: cd {project} && recipe run mine/x.yaml --shrink" in capsys.readouterr().out
    gone = {"command": words, "recipe_file": "gone/x.yaml"}
    assert command_of(gone, run) == "recipe run mine/x.yaml --shrink"
