"""Paths of a recipe: below the project root, links resolved; and what lies there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.recipe.checks.disk import MAX_COUNTED_BYTES, count_rows
from runner.recipe.load import check_recipe, project_root

RECIPE = """\
schema: 1
name: paths
model: {{path: {model}}}
data:
  train: [{{path: {data}, format: text}}]
train: {{adapter: {{type: lora}}, max_steps: 1}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a recipe's folder, a model and a data file; a secret outside of it."""
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "recipes").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "rows.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}\n')
    return folder


def codes(project: Path, *, data: str = "../rows.jsonl", model: str = "../model") -> list[str]:
    path = project / "recipes" / "x.yaml"
    path.write_text(RECIPE.format(model=model, data=data))
    return [f"{d.code} {d.line}" for d in check_recipe(path)[1]]


def test_a_path_may_go_up_as_far_as_the_project_root(project: Path) -> None:
    assert codes(project) == []
    assert codes(project, data="../../secret.jsonl") == ["E208 5"]


def test_a_way_out_and_back_in_is_no_escape(project: Path) -> None:
    assert codes(project, data="../../project/rows.jsonl") == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_must_not_lead_out(kind: str, project: Path) -> None:
    link = project / "recipes" / "link"
    link.symlink_to(project.parent / ("secret.jsonl" if kind == "file" else "."))
    name = "link" if kind == "file" else "link/secret.jsonl"
    assert codes(project, data=name) == ["E208 5"]


def test_a_link_inside_of_the_project_is_followed(project: Path) -> None:
    (project / "recipes" / "link").symlink_to("../rows.jsonl")
    assert codes(project, data="link") == []


def test_a_link_to_itself_is_not_a_path(project: Path) -> None:
    (project / "recipes" / "loop").symlink_to("loop")
    assert codes(project, data="loop") == ["E209 5"]


def test_only_the_model_may_be_absolute(project: Path) -> None:
    outside = project.parent / "elsewhere"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    assert codes(project, model=str(outside)) == []
    assert codes(project, model="../../elsewhere") == ["E208 3"]
    assert codes(project, data=str(project / "rows.jsonl")) == ["E208 5"]


def test_a_name_that_is_too_long_does_not_exist(project: Path) -> None:
    assert codes(project, data="x" * 5000) == ["E209 5"]


def test_what_is_no_file_is_not_opened(project: Path) -> None:
    os.mkfifo(project / "recipes" / "pipe")
    assert codes(project, data="pipe") == ["E210 5"]
    assert codes(project, data=".") == ["E210 5"]
    assert codes(project, model="../rows.jsonl") == ["E210 3"]


def test_the_root_is_the_nearest_folder_with_a_git_folder_or_file(project: Path) -> None:
    recipe = project / "recipes" / "x.yaml"
    assert project_root(recipe) == project.resolve()
    (project / "recipes" / ".git").write_text("gitdir: elsewhere\n")  # a worktree
    assert project_root(recipe) == (project / "recipes").resolve()
    assert codes(project) == ["E208 3", "E208 5"]


def test_without_git_the_root_is_the_recipes_folder(tmp_path: Path) -> None:
    if any((above / ".git").exists() for above in (tmp_path, *tmp_path.parents)):
        pytest.fail("the folder for temporary files lies in a git checkout")
    assert project_root(tmp_path / "x.yaml") == tmp_path.resolve()


def test_rows_are_counted_in_json_and_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('{"a": 1}\n\n{"a": 2}')
    assert count_rows(path) == 2
    path.write_text(json.dumps([{"a": 1}] * 3))
    assert count_rows(path) == 3
    path.write_text("[" * 100_000)
    assert count_rows(path) is None
    path.write_text("[1")
    assert count_rows(path) is None
    assert count_rows(tmp_path) is None


def test_rows_of_a_large_file_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with path.open("wb") as file:
        file.truncate(MAX_COUNTED_BYTES + 1)
    assert count_rows(path) is None


def test_only_the_first_wrong_questions_are_shown(project: Path) -> None:
    (project / "recipes" / "q.jsonl").write_text("[\n" * 100)
    path = project / "recipes" / "x.yaml"
    text = RECIPE.format(model="../model", data="../rows.jsonl")
    path.write_text(text + "evaluate: {loss: false, samples: 0, questions: q.jsonl}\n")
    found = check_recipe(path)[1]
    assert [(d.code, d.line) for d in found] == [("E213", line) for line in range(1, 11)]
    assert found[0].file == str(project / "recipes" / "q.jsonl")


def test_a_question_file_of_blank_lines_has_no_question(project: Path) -> None:
    (project / "recipes" / "q.jsonl").write_text("\n \n")
    path = project / "recipes" / "x.yaml"
    text = RECIPE.format(model="../model", data="../rows.jsonl")
    path.write_text(text + "evaluate: {loss: false, samples: 0, questions: q.jsonl}\n")
    (diagnostic,) = check_recipe(path)[1]
    assert diagnostic.message == "there is no question in the file"
