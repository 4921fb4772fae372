"""`recipe diff` of two recipes: values and stages, not lines of text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.plan.changes import changes
from runner.recipe.load import load_recipe
from runner.report import recipe_changes

RECIPE = """\
schema: 1
name: t
model: {path: model}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  validation: {fraction: 0.5}
train:
  adapter: {type: lora}
  max_steps: 4
evaluate: {}
merge: {}
gguf: {quantize: [Q8_0]}
"""
AFTER_TRAINING = ("evaluate", "merge", "gguf")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("rows", "more"):
        row = {"instruction": f"{name}?", "output": "a"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "a.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(project: Path, *replaced: tuple[str, str]):  # type: ignore[no-untyped-def]
    text = RECIPE
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    (project / "b.yaml").write_text(text)
    return changes(load_recipe(project / "a.yaml"), load_recipe(project / "b.yaml"))


def test_other_words_for_the_same_values_change_nothing(project: Path) -> None:
    found = compared(
        project,
        ("max_steps: 4", "# as before\n  learning_rate: 0.0002\n  max_steps: 0x4"),
        ("schema: 1", "schema: 1\ndescription: as before"),
    )
    assert not found.any
    assert found.values == ('description: "" → "as before"',)
    assert found.same == ("fetch", "prepare", "train", *AFTER_TRAINING)


def test_a_value_touches_its_stage_and_perhaps_those_behind(project: Path) -> None:
    found = compared(project, ("max_steps: 4", "max_steps: 4\n  learning_rate: 1.0e-4"))
    assert found.values == ("train.learning_rate: 0.0002 → 0.0001",)
    assert found.touched == ("train",)
    assert found.perhaps == AFTER_TRAINING
    assert found.same == ("fetch", "prepare")


def test_a_file_of_other_content_is_named(tmp_path: Path, project: Path) -> None:
    other = project / "other"
    other.mkdir()
    for name in ("a.yaml", "rows.jsonl", "model/config.json"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes((project / name).read_bytes())
    (other / "rows.jsonl").write_text('{"instruction": "another?", "output": "a"}\n')
    found = changes(load_recipe(project / "a.yaml"), load_recipe(other / "a.yaml"))
    assert (found.values, found.files, found.touched) == ((), ("rows.jsonl",), ("prepare",))
    assert "file       rows.jsonl: other content" in recipe_changes.as_text(found)
    assert "rows.jsonl: other content" in recipe_changes.as_markdown(found)


def test_a_value_that_decides_no_byte_is_told_and_touches_nothing(project: Path) -> None:
    found = compared(project, ("max_steps: 4", "max_steps: 4\n  save_steps: 2"))
    assert found.values == ("train.save_steps: 50 → 2",)
    assert not found.any


def test_values_are_shown_as_yaml(project: Path) -> None:
    found = compared(
        project,
        ("max_steps: 4", "num_train_epochs: 2\n  bf16: true"),
        ("[Q8_0]", "[Q8_0, F16], imatrix: {}"),
        ("evaluate: {}", "evaluate: {questions: null, samples: 0}"),
        ("merge: {}", "merge: {dtype: float16}"),
    )
    assert found.values == (
        "evaluate.samples: 8 → 0",
        "gguf.imatrix: (none) → {data: train, chunks: 128}",
        "gguf.quantize: [Q8_0] → [Q8_0, F16]",
        "merge.dtype: bfloat16 → float16",
        "train.bf16: false → true",
        "train.max_steps: 4 → (none)",
        "train.num_train_epochs: (none) → 2.0",
    )


def test_sections_are_stages(project: Path) -> None:
    found = compared(
        project,
        ("evaluate: {}\n", ""),
        ("[Q8_0]}", "[Q8_0]}\nollama: {name: t-test}\n"),
    )
    assert (found.added, found.removed) == (("ollama",), ("evaluate",))
    assert (found.touched, found.perhaps) == ((), ())


def test_other_bytes_in_the_data_count_whatever_their_name(project: Path) -> None:
    assert compared(project, ("rows.jsonl", "more.jsonl")).touched == ("prepare",)
    (project / "same.jsonl").write_bytes((project / "rows.jsonl").read_bytes())
    found = compared(project, ("rows.jsonl", "same.jsonl"))
    assert len(found.values) == 1
    assert not found.any


def test_a_branch_of_the_hub_needs_no_network(project: Path) -> None:
    hub = "model: {hub: me/model, revision: %s}"
    (project / "a.yaml").write_text(RECIPE.replace("model: {path: model}", hub % "main"))
    found = compared(project, ("model: {path: model}", hub % "next"))
    assert found.touched == ("fetch",)
    assert set(found.perhaps) == {"prepare", "train", *AFTER_TRAINING}


def test_the_command_prints_values_and_stages(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "b.yaml").write_text(RECIPE.replace("max_steps: 4", "max_steps: 5"))
    assert main(["diff", "a.yaml", "b.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "value      train.max_steps: 4 → 5",
        "again      train",
        "perhaps    evaluate, merge, gguf",
        "same       fetch, prepare",
        "perhaps: only if what comes before gives other bytes",
    ]
    assert main(["diff", "a.yaml", "b.yaml", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["touched"] == ["train"]
    assert main(["diff", "a.yaml", "a.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the result is the same"


def test_a_recipe_and_a_run_are_not_compared(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", "a.yaml", "runs/t"]) == 2
    assert "error[E005]" in capsys.readouterr().err


def test_an_invalid_recipe_is_reported_with_its_place(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "b.yaml").write_text(RECIPE.replace("max_steps", "max_stops"))
    assert main(["diff", "a.yaml", "b.yaml"]) == 2
    assert "b.yaml:9:3: error[E102]" in capsys.readouterr().err


# --- for pull requests


@pytest.fixture
def folders(project: Path) -> Path:
    """`base` and `head` with a recipe of every kind of change."""
    texts = {
        "same": (RECIPE, RECIPE + "# a remark\n"),
        "changed": (RECIPE, RECIPE.replace("max_steps: 4", "max_steps: 5")),
        "named": (RECIPE, RECIPE.replace("name: t", "name: t\ndescription: x")),
        "new": (None, RECIPE),
        "gone": (RECIPE, None),
        "broken": (RECIPE, RECIPE.replace("max_steps", "max_stops")),
        "mended": (RECIPE.replace("max_steps", "max_stops"), RECIPE),
    }
    for index, side in enumerate(("base", "head")):
        (project / side / "deep").mkdir(parents=True)
        for name in ("model", "rows.jsonl"):
            (project / side / "deep" / name).symlink_to(project / name)
        (project / side / "compose.yaml").write_text("services: {}\n")
        for name, both in texts.items():
            if (text := both[index]) is not None:
                (project / side / "deep" / f"{name}.yaml").write_text(text)
    return project


def test_all_recipes_of_two_folders(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--recipes", "base", "head", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] == 1
    kinds = {Path(each["recipe"]).stem: each["kind"] for each in found["recipes"]}
    assert kinds == {
        "broken": "invalid", "changed": "changed", "gone": "removed", "mended": "added",
        "named": "changed", "new": "added",
    }  # fmt: skip
    changed = {Path(each["recipe"]).stem: each["changes"] for each in found["recipes"]}
    assert changed["changed"]["touched"] == ["train"]
    assert changed["named"]["touched"] == []
    assert main(["diff", "--recipes", "base", "head"]) == 0
    text = capsys.readouterr().out
    assert "deep/changed.yaml: changed\n    value      train.max_steps: 4 → 5\n" in text
    assert text.endswith("1 other recipe: the same\n")


def test_another_row_of_the_data_is_a_change_of_the_recipe(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = folders / "head" / "deep" / "rows.jsonl"
    rows.unlink()
    rows.write_bytes((folders / "more.jsonl").read_bytes())
    assert main(["diff", "--recipes", "base", "head", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    same = next(each for each in found["recipes"] if each["recipe"] == "deep/same.yaml")
    assert (same["changes"]["values"], same["changes"]["touched"]) == ([], ["prepare"])


def test_the_comment_says_it_in_markdown(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--recipes", "base", "head", "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("### What this changes in the results\n")
    assert (
        "**`deep/changed.yaml`**\n\nagain: `train`; perhaps: `evaluate`, `merge`, `gguf`." in text
    )
    assert "```text\ntrain.max_steps: 4 → 5\n```" in text
    assert "**`deep/broken.yaml`** has errors, so it is not compared\n" in text
    (folders / "base" / "deep" / "mended.yaml").unlink()
    assert main(["diff", "--recipes", "base", "base", "--format", "markdown"]) == 0
    assert "No recipe gives anything else." in capsys.readouterr().out


def test_nothing_of_a_strangers_recipe_is_more_than_text(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = '"a\\n```\\n@everyone ![x](y) <b>"'
    path = folders / "head" / "deep" / "changed.yaml"
    path.write_text(RECIPE.replace("name: t\n", f"name: t\ndescription: {evil}\n"))
    path.rename(path.with_name("ch`an|ged.yaml"))
    (folders / "base" / "deep" / "changed.yaml").rename(
        folders / "base" / "deep" / "ch`an|ged.yaml"
    )
    assert main(["diff", "--recipes", "base", "head", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert "**``deep/ch`an\\|ged.yaml``**" in lines
    at = next(index for index, line in enumerate(lines) if "a\\n```" in line)
    assert (lines[at - 1], lines[at + 1]) == ("````text", "````")


def test_a_long_comment_is_cut(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ", ".join(f"m{index}: {index % 9 + 1}" for index in range(60))
    adapter = RECIPE.replace("type: lora}", f"type: lora, rank_pattern: {{{many}}}}}")
    (folders / "head" / "deep" / "changed.yaml").write_text(adapter)
    for index in range(2000):
        (folders / "head" / f"x{index}.yaml").write_text("schema: 1\n")
    assert main(["diff", "--recipes", "base", "head", "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "… and 20 more\n" in text
    assert re.search(r"^… and \d+ more recipes\.$", text, re.MULTILINE)
    assert 50_000 < len(text) < 65_536


def test_what_does_not_go_together_is_refused(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", "--recipes", "base", "head", "--set", "seed=1"]) == 2
    assert "error[E133]" in capsys.readouterr().err
    assert main(["diff", "--recipes", "base", "a.yaml"]) == 2
    assert "error[E005]" in capsys.readouterr().err
    assert main(["diff", "base", "head"]) == 2
    said = capsys.readouterr().err
    assert "error[E005]" in said
    assert "recipe diff --recipes base head" in said
    (folders / "base" / "run.json").touch()  # a run's folder may hold recipes, too
    assert main(["diff", "base", "head", "--format", "markdown"]) == 2
    assert "error[E002]" in capsys.readouterr().err


def test_an_abstract_base_is_no_broken_recipe(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("base", "head"):
        (folders / folder / "team.yaml").write_text("schema: 1\nabstract: true\nseed: 3\n")
    assert main(["diff", "--recipes", "base", "head"]) == 0
    assert "team.yaml" not in capsys.readouterr().out
    (folders / "head" / "team.yaml").write_text("schema: 1\nabstract: true\nsed: 3\n")
    assert main(["diff", "--recipes", "base", "head"]) == 0
    assert "team.yaml: has errors" in capsys.readouterr().out


def test_a_plan_is_a_table(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(project / "cache"))
    assert main(["plan", "a.yaml", "--until", "prepare", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "**`a.yaml`**",
        "",
        "| stage | action | why |",
        "| --- | --- | --- |",
        "| fetch | run | `no stored result` |",
    ]
