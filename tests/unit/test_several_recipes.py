"""Several recipes in one command: what is refused before any is run, and what is said at the end.

What a run computes is left out here; tests/integration/test_several_recipes.py really runs them.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.cli import run as run_command
from runner.cli.main import main, parse
from runner.errors import Interrupted, MachineCannot, NotReproduced, StageFailed
from runner.report import summary as summaries
from runner.runs.again import words_of
from runner.runs.several import chosen
from tests.small_recipe import RECIPE, lock, write_recipe

Raised = dict[str, BaseException]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.yaml, b.yaml and c.yaml, of that name each."""
    (tmp_path / ".git").mkdir()
    for name in "abc":
        write_recipe(tmp_path / f"{name}.yaml", RECIPE.replace("name: t", f"name: {name}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes that were run, by name; nothing is computed."""
    return runs_that(monkeypatch, {})


def runs_that(monkeypatch: pytest.MonkeyPatch, raised: Raised) -> list[str]:
    """As `ran`, with what the run of a recipe ends by."""
    found: list[str] = []

    def execute(args: Any, link: Any, *more: Any) -> Path:
        found.append(link.recipe.name)
        if error := raised.get(link.recipe.name):
            raise error
        return Path("runs") / str(link.recipe.name)

    def in_short(folder: Path) -> dict[str, Any]:
        return {"schema": 1, "state": "done", "run": str(folder), "stages": []}

    monkeypatch.setattr(run_command, "execute_chain", execute)
    monkeypatch.setattr(summaries, "summary", in_short)
    monkeypatch.setattr(summaries, "render_summary", lambda result, stream: print(result["run"]))
    return found


def test_they_run_in_the_order_given_each_once(
    ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "c.yaml", "a.yaml", "./c.yaml", "b.yaml", "a.yaml"]) == 0
    assert ran == ["c", "a", "b"]
    told = capsys.readouterr()
    assert told.out == "runs/c\nruns/a\nruns/b\n"
    assert "recipe 2 of 3: a.yaml\n" in told.err


def test_the_short_form_takes_several_too(ran: list[str]) -> None:
    assert main(["b.yaml", "a.yaml"]) == 0
    assert ran == ["b", "a"]


def test_as_json_there_is_one_object_of_all(
    ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "a.yaml", "b.yaml", "--format", "json"]) == 0
    done = {"schema": 1, "state": "done", "stages": []}
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "recipes": [
            {"file": "a.yaml", "run": "runs/a", **done},
            {"file": "b.yaml", "run": "runs/b", **done},
        ],
    }
    assert main(["run", "a.yaml", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "runs/a", **done}


def test_errors_of_all_are_told_before_any_is_run(
    ran: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "bc":
        text = (project / f"{name}.yaml").read_text()
        (project / f"{name}.yaml").write_text(text.replace("max_steps", "max_stepz"))
    assert main(["run", "a.yaml", "b.yaml", "c.yaml", "none.yaml"]) == 2
    told = capsys.readouterr().err
    assert "b.yaml:5:" in told
    assert "c.yaml:5:" in told
    assert "none.yaml: error[E101]" in told
    assert ran == []


@pytest.mark.parametrize("flag", ["--shrink", ""])
def test_two_that_would_share_their_runs_are_refused(
    flag: str, ran: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(project / "other.yaml", RECIPE.replace("name: t", "name: a"))
    assert main(["run", "a.yaml", "b.yaml", "other.yaml", *filter(None, [flag])]) == 2
    told = capsys.readouterr().err
    assert 'other.yaml:2:7: error[E280]: a.yaml also has the name "a"' in told
    assert "the runs of both would lie in runs/a" in told
    assert main(["plan", "a.yaml", "other.yaml"]) == 2
    assert ran == []


def test_a_lack_of_the_last_stops_the_first(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def require(recipe: Any, steps: Any) -> None:
        if recipe.name == "c":
            raise MachineCannot("no GPU", code="E960")

    monkeypatch.setattr("runner.execution.device.require_device", require)
    assert main(["run", "a.yaml", "b.yaml", "c.yaml"]) == 4
    told = capsys.readouterr().err
    assert "error[E960]: no GPU" in told
    assert "that is of c.yaml; none of the recipes was begun" in told
    assert ran == []


CASES = [
    (StageFailed("the training ended", stage="train"), 1, "failed"),
    (NotReproduced("other bytes"), 7, "failed"),
    (Interrupted(signal.SIGTERM), 143, "interrupted"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ZeroDivisionError("a bug"), 3, "failed"),
]


@pytest.mark.parametrize(("error", "code", "state"), CASES, ids=lambda each: str(each)[:20])
def test_one_that_fails_stops_the_rest_and_says_how_to_go_on(
    error: BaseException,
    code: int,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = runs_that(monkeypatch, {"b": error})
    words = ["run", "a.yaml", "b.yaml", "c.yaml", "--set", "seed=7", "--format", "json"]
    assert main(words) == code
    assert ran == ["a", "b"]
    told = capsys.readouterr()
    lines = (
        "ended with b.yaml, recipe 2 of 3\n"
        "  done:      a.yaml\n"
        "  not begun: c.yaml\n"
        "  to go on, what is done is reused: "
        "recipe run a.yaml b.yaml c.yaml --set seed=7\n"
    )
    assert told.err.count(lines) == 1
    data = json.loads(told.out)["recipes"]
    assert [(each["file"], each["state"]) for each in data] == [
        ("a.yaml", "done"),
        ("b.yaml", state),
        ("c.yaml", "not-begun"),
    ]


def test_a_failure_that_is_returned_stops_the_rest_too(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_command, "_verify", lambda folder, store, told: 7)
    assert main(["run", "a.yaml", "b.yaml", "--verify-twice"]) == 7
    assert ran == ["a"]
    assert "  not begun: b.yaml\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["a.yaml", "b.yaml", "--into", "x"], "--into"),
        (["a.yaml", "b.yaml", "--rendezvous", "127.0.0.1:29400"], "--rendezvous"),
        (["a.yaml", "b.yaml", "--trust-bundled-code"], "--trust-bundled-code"),
        (["a.yaml", "x.tar"], "the bundle x.tar"),
    ],
)
def test_what_is_of_one_recipe_is_refused_of_several(
    words: list[str], what: str, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 2
    told = f"error[E002]: {what} is of one recipe, and this command names 2"
    assert told in capsys.readouterr().err
    assert ran == []


def test_of_a_pattern_only_recipes_are_run(
    ran: list[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock(project / "a.yaml")
    monkeypatch.setattr(run_command, "compare_with_expected", lambda *_, **__: None)
    (project / "base.yaml").write_text("schema: 1\nabstract: true\n")
    (project / "d.yaml").write_text("name: d\nsynthesis: {}\n")
    assert main(["run", *sorted(path.name for path in project.glob("*.yaml"))]) == 0
    assert ran == ["a", "b", "c"]
    told = capsys.readouterr().err
    assert "left out: a.lock.yaml is the lock of a.yaml, which goes by it\n" in told
    assert "left out: base.yaml is abstract: it is there to be extended\n" in told
    command = "recipe data synthesize d.yaml -o rows.jsonl"
    assert f"left out: d.yaml makes rows of data: {command}\n" in told


def test_a_lock_without_its_recipe_is_run_itself(project: Path) -> None:
    lock(project / "a.yaml")
    args = parse(["run", "a.lock.yaml", "b.yaml"])
    assert [each.recipe.name for each in chosen(args, print)] == ["a.lock.yaml", "b.yaml"]


def test_nothing_to_run_keeps_its_own_error(
    ran: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("d", "e"):
        (project / f"{name}.yaml").write_text("schema: 1\nabstract: true\n")
    assert main(["run", "d.yaml", "e.yaml"]) == 2
    assert capsys.readouterr().err.count("error[E127]") == 2


def test_the_command_of_every_run_names_all() -> None:
    args = parse(["run", "a.yaml", "b c.yaml", "./a.yaml", "--until", "merge"])
    first, second = chosen(args, print)
    assert words_of(first) == ["recipe", "run", "a.yaml", "b c.yaml", "--until", "merge"]
    assert words_of(first) == words_of(second)


def test_plans_of_several_are_those_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    alone = []
    for name in "ab":
        assert main(["plan", f"{name}.yaml", "--format", "json"]) == 0
        alone.append(json.loads(capsys.readouterr().out))
    assert main(["plan", "a.yaml", "b.yaml", "--format", "json"]) == 0
    both = json.loads(capsys.readouterr().out)
    for each in (*alone, *both["recipes"]):
        each["cost"]["disk"].pop("store_free")  # others write to the disk meanwhile
    assert both == {"schema": 1, "recipes": alone}
    assert main(["plan", "a.yaml", "b.yaml"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# a.yaml\nfetch ")
    assert "\n\n# b.yaml\nfetch " in text
