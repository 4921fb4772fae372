"""`recipe new` for every goal: the recipe is valid, and rows that do not suit are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.plan.machines import FOLDER
from runner.recipe.creation.goals import GOALS, goal_of, goals_for
from runner.recipe.creation.inputs import read_data
from runner.recipe.load import check_recipe
from runner.recipe.methods import METHODS
from runner.recipe.model import Recipe
from runner.scripts.data.formats import EVERY

Row = dict[str, Any]
ROWS: dict[str, list[Row]] = {
    "preference": [{"prompt": "a", "chosen": "b", "rejected": "c"}],
    "kto": [
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "c", "completion": "d", "label": False},
        {"prompt": "e", "completion": "f", "label": True},
    ],
    "prompt": [{"prompt": "1 + 1", "answer": 2}],
    "text": [{"text": "a b c"}],
    "alpaca": [{"instruction": "a", "input": "", "output": "b"}],
    "words": [{"prompt": "Which colour?", "answer": "red"}],
    "liked": [{"prompt": "a", "completion": "b", "label": True}],
    "unanswered": [{"prompt": "a"}],
}
FORMAT_OF = {"words": "prompt", "liked": "kto", "unanswered": "prompt"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as the current folder, with rows of each kind."""
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    for name, rows in ROWS.items():
        lines = [json.dumps(row) for row in rows * 24]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def new(*flags: str, model: str = "smollm2", machine: str = "spark") -> int:
    words = ["new", "x.yaml", "--force", "--model", model, "--machine", machine]
    return main([*words, *flags])


def written() -> Recipe:
    recipe, found = check_recipe(Path("x.yaml"))
    assert recipe is not None
    assert {each.code for each in found} <= {"W206"}
    return recipe


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("goal", sorted(GOALS))
def test_every_goal_gives_a_valid_recipe_that_can_be_planned(
    goal: str, tuning: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = next(name for name in ROWS if name in GOALS[goal].formats)
    flags = ["--goal", goal, "--data", f"{rows}.jsonl", "--tuning", tuning]
    assert new(*flags, model="Qwen/Qwen3-8B") == 0
    recipe = written()
    assert recipe.train.method == GOALS[goal].method
    assert [file.format for file in recipe.data.train] == [rows]
    assert recipe.train.adapter.lora_dropout == 0 or goal in ("chat", "gguf", "sft", "pretrain")
    capsys.readouterr()
    assert main(["plan", "x.yaml", "--hardware", "dgx-spark", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["machines"][0]["phases"]["train"]["total"] > 0


@pytest.mark.parametrize(
    ("rows", "goal"),
    [("preference", "dpo"), ("kto", "kto"), ("prompt", "grpo"), ("text", "pretrain"),
     ("alpaca", "chat")],
)  # fmt: skip
def test_the_rows_tell_the_goal(rows: str, goal: str, project: Path) -> None:
    assert new("--data", f"{rows}.jsonl") == 0
    assert written().train.method == GOALS[goal].method
    assert goal_of(rows) == goal
    assert goals_for(rows)[0] == goal


@pytest.mark.parametrize("rows", sorted(ROWS))
def test_rows_are_of_their_own_format(rows: str, project: Path) -> None:
    ((found, _),) = read_data([project / f"{rows}.jsonl"], None)
    assert found == FORMAT_OF.get(rows, rows)


def test_a_given_goal_reads_labelled_answers_without_their_labels(project: Path) -> None:
    assert new("--goal", "sft", "--data", "kto.jsonl") == 0
    assert written().data.train[0].format == "prompt-completion"


def test_every_format_has_a_goal_and_every_method_but_ppo() -> None:
    assert {name for goal in GOALS.values() for name in goal.formats} == set(EVERY)
    assert set(METHODS) - {goal.method for goal in GOALS.values()} == {"ppo"}


# --- what a method has of its own


def test_the_weights_of_kto_make_up_for_the_rarer_answers(project: Path) -> None:
    assert new("--data", "kto.jsonl") == 0  # two good ones for a bad one
    train = written().train
    assert (train.desirable_weight, train.undesirable_weight) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "reward"), [("prompt", "number-answer"), ("words", "exact-answer")]
)
def test_the_reward_of_grpo_is_by_the_answers(rows: str, reward: str, project: Path) -> None:
    assert new("--data", f"{rows}.jsonl") == 0
    recipe = written()
    train = recipe.train
    assert [each.name for each in train.rewards or ()] == [reward]
    answers = train.per_device_train_batch_size * train.gradient_accumulation_steps
    assert answers % (train.num_generations or 0) == 0
    assert recipe.data.max_length > (train.max_completion_length or 0)


def test_an_adapter_takes_ten_times_the_rate(project: Path) -> None:
    for goal in ("dpo", "orpo", "simpo", "reward"):
        rates = []
        for tuning in ("full", "lora"):
            assert new("--goal", goal, "--data", "preference.jsonl", "--tuning", tuning) == 0
            rates.append(written().train.learning_rate)
        assert rates[1] == pytest.approx(10 * rates[0]), goal


# --- what is refused


@pytest.mark.parametrize(
    ("goal", "rows", "code", "message", "hint"),
    [
        ("chat", "preference", "E157", "format preference, which chat cannot use", "--goal dpo"),
        ("dpo", "alpaca", "E157", "format alpaca, which dpo cannot use", "--goal chat"),
        ("reward", "kto", "E157", "format kto, which reward cannot use", "--goal kto"),
        ("grpo", "text", "E157", "format text, which grpo cannot use", "--goal pretrain"),
        ("kto", "liked", "E954", "every answer is called good", "--goal chat"),
        ("grpo", "unanswered", "E954", "rows without an answer", "docs/methods.md"),
    ],
)
def test_rows_that_do_not_suit_the_goal(
    goal: str,
    rows: str,
    code: str,
    message: str,
    hint: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert new("--goal", goal, "--data", f"{rows}.jsonl") == 2
    told = said(capsys)
    assert f"error[{code}]" in told
    assert message in told
    assert hint in told
    assert not Path("x.yaml").exists()


def test_what_is_wrong_is_told_without_what_is_only_a_warning(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new("--data", "alpaca.jsonl", "--max-length", "0", model="a/x-8B") == 2
    told = said(capsys)
    assert "max_length" in told
    assert "is not pinned" not in told


# --- machines and sizes


@pytest.mark.parametrize(
    ("machine", "title", "gigabytes"),
    [("rtx-4090", "GeForce RTX 4090", 23.7), ("DGX-Spark", "NVIDIA DGX Spark", 108.8),
     ("h200", "H200", 138.7)],
)  # fmt: skip
def test_the_machines_of_plan_are_known(
    machine: str, title: str, gigabytes: float, project: Path
) -> None:
    assert new("--data", "alpaca.jsonl", machine=machine) == 0
    text = Path("x.yaml").read_text().replace("\n# ", " ")
    assert f"into the {gigabytes} GB that {title}" in text


def test_a_file_describes_a_machine(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = json.loads((FOLDER / "rtx-4090.json").read_text()) | {
        "title": "ours",
        "memory": 48 * 10**9,
    }
    Path("own.json").write_text(json.dumps(own))
    assert new("--data", "alpaca.jsonl", machine="own.json") == 0
    assert "for ours (48 GB)" in Path("x.yaml").read_text()
    Path("own.json").write_text("{}")
    assert new("--data", "alpaca.jsonl", machine="own.json") == 2
    assert "error[E006]" in said(capsys)
    assert new("--data", "alpaca.jsonl", machine="rtx-4091") == 2
    assert "did you mean rtx-4090?" in said(capsys)


def test_published_sizes_are_taken_before_those_of_a_name(project: Path) -> None:
    assert new("--data", "alpaca.jsonl", model="microsoft/phi-4") == 0  # no size in its name
    text = Path("x.yaml").read_text().replace("\n# ", " ")
    assert "on the shapes of microsoft/phi-4, as published" in text
