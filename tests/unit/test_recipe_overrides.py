"""`--set NAME=VALUE`: typed and checked as a recipe is, and every message names the option."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runner.cli.main import main, parse
from runner.errors import RecipeInvalid
from runner.execution.record import _laid_together
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.overrides import parse_overrides
from runner.report.reporters import REPORTERS
from tests.recipe_cases import copy_recipes


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tests/recipes in a project of its own, as the current folder."""
    folder = copy_recipes(tmp_path)
    monkeypatch.chdir(folder)
    return folder


TAKEN_ONCE = {"weight": None, "repeat": 1.0, "limit": None}
MINIMAL = Path("valid/minimal.yaml")


def said(path: Path, *options: str) -> list[tuple[str, str, int]]:
    return [(each.code, each.file, each.line) for each in check_recipe(path, options)[1]]


# --- values


@pytest.mark.parametrize(
    ("option", "pointer", "value"),
    [
        ("train.learning_rate=1e-4", "/train/learning_rate", 1e-4),
        ("train.learning_rate=1", "/train/learning_rate", 1.0),
        ("seed=017", "/seed", 17),
        ("train.bf16=true", "/train/bf16", True),
        ("data.system=on", "/data/system", "on"),
        ("data.system='a: b'", "/data/system", "a: b"),
        ("data.system=null", "/data/system", None),
        ('data.system=""', "/data/system", ""),
        ("data.system=a=b", "/data/system", "a=b"),
        ("train.adapter.target_modules=[q_proj,v_proj]", "/train/adapter/target_modules",
         ["q_proj", "v_proj"]),
        ("train.adapter={r: 16}", "/train/adapter",
         {"type": "lora", "r": 16}),
        ('train.adapter.rank_pattern."layers.0.q_proj"=4', "/train/adapter/rank_pattern",
         {"layers.0.q_proj": 4}),
        ("data.train[0].path=../data/./rows.jsonl", "/data/train",
         [{"path": "../data/./rows.jsonl", "format": "alpaca", **TAKEN_ONCE}]),
        ("data.train[0]={path: ../data/chats.json, format: messages}", "/data/train",
         [{"path": "../data/chats.json", "format": "messages", **TAKEN_ONCE}]),
        ("merge.dtype=float32", "/merge/dtype", "float32"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_in_a_recipe(
    option: str, pointer: str, value: Any, recipes: Path
) -> None:
    found: Any = load_recipe(MINIMAL, overrides=[option]).resolved()
    for key in pointer[1:].split("/"):
        found = found[key]
    if isinstance(value, dict):
        found = {key: found[key] for key in value}
    assert (found, type(found)) == (value, type(value))


def test_the_rest_stays_as_it_is_written(recipes: Path) -> None:
    before = load_recipe(MINIMAL)
    recipe = load_recipe(MINIMAL, overrides=["seed=7"])
    assert recipe.resolved() == before.resolved() | {"seed": 7}
    assert recipe.origin("/train/max_steps") == before.origin("/train/max_steps")
    assert recipe.source.overrides == {"seed": 7}
    assert before.source.overrides == {}


def test_the_last_of_two_options_counts(recipes: Path) -> None:
    assert load_recipe(MINIMAL, overrides=["seed=1", "seed=2"]).seed == 2


def test_a_choice_replaces_the_other_one(recipes: Path) -> None:
    recipe = load_recipe(MINIMAL, overrides=["train.num_train_epochs=2", "model.hub=acme/tiny"])
    assert (recipe.train.max_steps, recipe.train.num_train_epochs) == (None, 2.0)
    assert (recipe.model.path, recipe.model.hub) == (None, "acme/tiny")


def test_null_takes_away(recipes: Path) -> None:
    full = Path("valid/full.yaml")
    recipe = load_recipe(full, overrides=["benchmark=null", "train.adapter.r=null"])
    assert (recipe.benchmark, recipe.train.adapter.r) == (None, 8)
    assert said(full, "train.adapter=null") == [("E103", str(full), 35)]


def test_a_null_of_the_file_stays_an_error(recipes: Path) -> None:
    path = recipes / "valid" / "x.yaml"
    path.write_text(MINIMAL.read_text() + "merge: null\n")
    assert [code for code, _, _ in said(path)] == ["E104"]
    assert [code for code, _, _ in said(path, "seed=1")] == ["E104"]


def test_a_path_starts_at_the_recipe(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    option = "evaluate={loss: false, samples: 0, questions: ../data/questions.jsonl}"
    assert load_recipe(recipes / MINIMAL, overrides=[option]).evaluate is not None


def test_it_lies_over_the_bases_too(recipes: Path) -> None:
    path = Path("valid/extends/child.yaml")
    recipe = load_recipe(path, overrides=["train.adapter.lora_alpha=4", "train.adapter.r=2"])
    assert (recipe.train.adapter.r, recipe.train.adapter.lora_alpha) == (2, 4)
    assert recipe.model.path == "../../data/model"


# --- problems


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["train.learing_rate=1e-4"], [("E102", "train.learing_rate")]),
        (["trian.learning_rate=1e-4"], [("E102", "trian.learning_rate")]),
        (["train.learning_rate=fast"], [("E104", "train.learning_rate")]),
        (["train.learning_rate=2"], [("E105", "train.learning_rate")]),
        (["train.optim=adamw"], [("E106", "train.optim")]),
        (["train.adapter={r: 2, rr: 4}"], [("E102", "train.adapter")]),
        (["merge=yes", "seed=-1"], [("E104", "merge"), ("E105", "seed")]),
        (["data.train[0].path=none.jsonl"], [("E209", "data.train[0].path")]),
        (["data.train[1].path=x"], [("E129", "data.train[1].path")]),
        (["data.train.path=x"], [("E129", "data.train.path")]),
        (["data.train.0.path=x"], [("E129", "data.train.0.path")]),
        (["data[0]=x"], [("E129", "data[0]")]),
        (["name.x=1"], [("E129", "name.x")]),
        (["seed.x=1"], [("E104", "seed.x")]),
        ([f"a{'.a' * 32}=1"], [("E129", f"a{'.a' * 32}")]),
        ([f"{'a.' * 30000}a=1"], [("E129", f"{'a.' * 30000}a")]),
        (["extends=base.yaml"], [("E129", "extends")]),
        (["abstract=true"], [("E129", "abstract")]),
        (["seed"], [("E128", "seed")]),
        (["seed="], [("E128", "seed")]),
        (["=1"], [("E128", "=1")]),
        (["train..seed=1"], [("E128", "train")]),
        (["train.=1"], [("E128", "train")]),
        (["[0]=1"], [("E128", "[0]=1")]),
        (['"\\x"=1'], [("E128", '"\\x"=1')]),
        (["seed=[1", "train=&a 1"], [("E113", "seed"), ("E117", "train")]),
        (["seed=!!int 1"], [("E116", "seed")]),
        (["seed=.inf"], [("E120", "seed")]),
        (["schema=2"], [("E106", "schema")]),
    ],
)
def test_a_problem_names_the_option(
    options: list[str], expected: list[tuple[str, str]], recipes: Path
) -> None:
    found = said(MINIMAL, *options)
    assert found == [(code, f"--set {name}", 0) for code, name in expected]


def test_a_slip_is_said_as_in_a_file(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(MINIMAL), "--set", "train.learing_rate=1e-4"]) == 2
    assert capsys.readouterr().out == (
        '--set train.learing_rate: error[E102]: unknown key "learing_rate" in train\n'
        '  hint: did you mean "learning_rate"?\n'
        "1 recipe checked: 1 error\n"
    )


def test_it_is_the_second_place_of_a_file_used_twice(recipes: Path) -> None:
    option = "data.validation={files: [{path: ../data/rows.jsonl, format: alpaca}]}"
    (diagnostic,) = check_recipe(MINIMAL, [option])[1]
    assert (diagnostic.code, diagnostic.file) == ("E211", "--set data.validation")
    assert "is used in line 8 already" in diagnostic.message


def test_everything_wrong_with_the_options_is_said_at_once() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_overrides(["seed", "name=[", "seed=1"])
    assert [each.code for each in caught.value.diagnostics] == ["E128", "E113"]


def test_no_token_is_shown(recipes: Path) -> None:
    token = "hf_" + "a" * 34
    _, diagnostics = check_recipe(MINIMAL, [f"data.system={token}"])
    assert [each.code for each in diagnostics] == ["E216"]
    for render in REPORTERS.values():
        assert token not in render(diagnostics, files=1)


# --- commands


def test_show_says_where_the_value_is_from(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["show", str(MINIMAL), "--set", "train.max_steps=7", "--set", "merge={}"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("# ")[1] for line in lines if "max_steps: 7" in line or "merge" in line] == [
        "--set train.max_steps", "--set merge"
    ]  # fmt: skip
    assert main([*arguments, "--format", "json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert origin["/train/max_steps"] == {"given": True, "set": "train.max_steps"}


def test_diff_sets_it_in_the_second_recipe(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(MINIMAL), str(MINIMAL), "--set", "train.learning_rate=1e-4"]) == 0
    assert "value      train.learning_rate: 0.0002 → 0.0001\n" in capsys.readouterr().out


def test_the_run_records_it_and_the_bases(recipes: Path) -> None:
    path = Path("valid/extends/child.yaml")
    recipe = load_recipe(path, overrides=["train.learning_rate=1e-4", "seed=3"])
    assert _laid_together(recipe) == {
        "bases": ["valid/extends/bases/team.yaml"],
        "set": {"train.learning_rate": 1e-4, "seed": 3},
    }
    assert _laid_together(load_recipe(MINIMAL)) == {}


def test_what_is_fixed_takes_no_option(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolved = load_recipe(MINIMAL).resolved()
    lock = recipes / "valid" / "x.lock.yaml"
    lock.write_text(json.dumps({"lock": 1, "recipe": resolved}))
    assert said(lock, "seed=1") == [("E133", "--set seed", 0)]
    for arguments in (
        ["run", str(MINIMAL), "--set", "seed=1", "--locked"],
        ["diff", "data", "data", "--set", "seed=1"],
    ):
        assert main(arguments) == 2
        assert "error[E133]" in capsys.readouterr().err


def test_a_bundle_takes_no_option(recipes: Path) -> None:
    from runner.errors import UsageError
    from runner.runs import reading

    args = SimpleNamespace(shrink=False, set=["seed=1"])
    with pytest.raises(UsageError) as caught:
        reading.unpacked(cast("Any", args))
    assert caught.value.code == "E133"


def test_a_backend_has_an_option_of_its_own() -> None:
    args = parse(["run", "x.yaml", "--set", "seed=1", "--backend", "llamafactory"])
    assert args.set == ["seed=1", "train.backend=llamafactory"]
    assert parse(["run", "x.yaml"]).set == []


def test_a_backend_that_is_not_known_is_named_with_the_option(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(MINIMAL), "--backend", "llamafactor"]) == 2
    said = capsys.readouterr().err
    assert "--set train.backend: error[E106]" in said
    assert "did you mean llamafactory?" in said
