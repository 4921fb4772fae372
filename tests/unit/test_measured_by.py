"""Rows to train on are held against what the recipe's own harness tasks ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.plan.changes import _of_result
from runner.plan.plan import needs_of
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.model import Recipe
from runner.rows.prepared import cleaning_lines
from runner.scripts.data.cleaning.pipeline import Cleaning
from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.files.rows import Place
from runner.stages import fetch_tasks, prepare, stages_of
from runner.stages.contract import Class, FileEntry, Outputs
from runner.stages.rows.measuring import asked_splits, measured_by

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TASK = "task: t\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
LOCAL = {"path": "t.yaml", "data": "asked.jsonl", "fewshot": "few.jsonl"}
HUB = {"path": "u.yaml", "hub": "acme/asked", "revision": COMMIT, "data": "test.parquet"}
NAMED = {"name": "arc_easy", "revision": COMMIT}
DECONTAMINATE = {"decontaminate": {"ngram": 8}}
Build = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path) -> Build:
    (tmp_path / ".git").mkdir()
    (tmp_path / "t.yaml").write_text(TASK)
    (tmp_path / "u.yaml").write_text(TASK.replace("task: t", "task: u"))
    for name in ("rows.jsonl", "asked.jsonl", "few.jsonl", "bench.jsonl"):
        (tmp_path / name).write_text('{"text": "one two three four five"}\n' * 40)

    def build(*tasks: dict[str, Any], clean: dict[str, Any] | None = None, **data: Any) -> Recipe:
        content: dict[str, Any] = {
            "schema": 1,
            "name": "x",
            "model": {"hub": "acme/tiny", "revision": COMMIT},
            "data": {"train": [{"path": "rows.jsonl", "format": "text"}], **data},
            "train": {"adapter": {"type": "lora"}, "max_steps": 1},
        }
        if tasks:
            content["evaluate"] = {"samples": 0, "harness": {"tasks": list(tasks)}}
        if clean is not None:
            content["data"]["clean"] = clean
        (tmp_path / "x.yaml").write_text(json.dumps(content))
        return load_recipe(tmp_path / "x.yaml")

    return build


def outputs(stage: str, **digests: str) -> Outputs:
    files = {name: FileEntry(name, 1, sha, Class.PORTABLE) for name, sha in digests.items()}
    return Outputs(stage, "key", Path("/none"), files)


FETCHED = {
    "fetch": outputs("fetch"),
    "fetch_tasks": outputs(
        "fetch_tasks", **{"tasks/data-1.parquet": "1", "tasks/rows-0-00000.parquet": "2"}
    ),
}


def test_the_rows_that_tasks_ask_are_looked_for_and_their_examples_are_not(
    recipe: Build, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []
    context: Any = SimpleNamespace(
        scratch=tmp_path,
        run_script=lambda name, spec, **more: asked.append({"spec": spec, **more}),
    )
    clean = {"decontaminate": {"files": [{"path": "bench.jsonl"}]}}
    measured = recipe(LOCAL, HUB, NAMED, clean=clean)
    prepare.run(measured, FETCHED, tmp_path, context)
    spec, inputs = asked[0]["spec"], asked[0]["inputs"]
    assert spec["measured"] == [
        "asked.jsonl",
        "acme/asked/test.parquet",
        "allenai/ai2_arc (ARC-Easy, test)",
        "bench.jsonl",
    ]
    assert spec["measured_tasks"] == 3
    assert [inputs[f"measured-{number}"].name for number in range(4)] == [
        *("asked.jsonl", "data-1.parquet", "rows-0-00000.parquet", "bench.jsonl")
    ]
    assert prepare.borrowed(recipe(NAMED, clean=DECONTAMINATE)) == ("parquet",)
    assert prepare.borrowed(recipe(HUB, clean=DECONTAMINATE)) == ("parquet",)


def test_only_recipes_with_both_have_another_key_and_wait_for_the_hub(recipe: Build) -> None:
    def key(of: Recipe) -> tuple[Any, Any]:
        return prepare.key_inputs(of, FETCHED), prepare.snapshot(of)

    def waits_for(of: Recipe) -> list[str]:
        return needs_of(prepare, stages_of(of), of)  # type: ignore[arg-type]

    neither, tasks = recipe(), recipe(LOCAL, HUB, NAMED)
    assert key(tasks) == key(neither)
    assert waits_for(tasks) == ["fetch"]
    cleans = recipe(clean=DECONTAMINATE)
    off = {"decontaminate": {"ngram": 8, "questions": False}}
    without = recipe(LOCAL, HUB, NAMED, clean=off)
    assert key(without) == key(recipe(clean=off))
    assert waits_for(without) == ["fetch"]
    local = recipe(LOCAL, clean=DECONTAMINATE)
    assert key(local)[0] == key(cleans)[0]
    assert key(local)[1] != key(cleans)[1]
    assert waits_for(local) == ["fetch"]
    hub, named = recipe(LOCAL, HUB, clean=DECONTAMINATE), recipe(NAMED, clean=DECONTAMINATE)
    for each in (hub, named):
        assert waits_for(each) == ["fetch", "fetch_tasks"]
        changed = {
            **FETCHED,
            "fetch_tasks": outputs("fetch_tasks", **{"tasks/data-1.parquet": "9"}),
        }
        assert prepare.key_inputs(each, changed) != prepare.key_inputs(each, FETCHED)
    assert "fetch_tasks" in _of_result(hub)
    assert "fetch_tasks" not in _of_result(tasks)


def test_a_split_that_two_tasks_ask_is_looked_for_once(recipe: Build) -> None:
    twice = recipe(NAMED, NAMED | {"name": "arc_challenge"}, clean=DECONTAMINATE)
    assert [rows.config for rows in asked_splits(twice)] == ["ARC-Easy", "ARC-Challenge"]
    assert {rows.split for rows in asked_splits(twice)} == {"test"}
    assert measured_by(twice) == ()
    assert len(fetch_tasks.splits_of(twice)) >= 2


def test_tasks_are_something_to_look_for(recipe: Build) -> None:
    clean = {"decontaminate": {"validation": False}}
    with_tasks = recipe(LOCAL, clean=clean)
    assert "W257" not in {found.code for found in check_recipe(with_tasks.source.path)[1]}
    without = recipe(clean=clean)
    assert "W257" in {found.code for found in check_recipe(without.source.path)[1]}


def test_a_row_that_a_task_asks_is_dropped_and_a_task_of_few_words_is_said(tmp_path: Path) -> None:
    question = "At what minute of the hour does the reading room of the library open?"
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": question, "answer": "9"}))
    (tmp_path / "short.jsonl").write_text('{"question": "2 + 2?"}')
    cleaning = Cleaning({"decontaminate": {"ngram": 8, "validation": True}})
    rows = [
        Conversation((message("user", asked), message("assistant", "At 17.")), place=Place("r", n))
        for n, asked in enumerate((question, "Where is the library?"), 1)
    ]
    tasks = [(tmp_path / name, name) for name in ("short.jsonl", "t.jsonl")]
    assert cleaning.uncontaminated(rows, [], [], tasks) == [False, True]
    lines = list(cleaning_lines(cleaning.measures()))
    assert 'r:1: holds 8 words of t.jsonl:1: "at what minute of the hour does the"' in lines[2]
    assert lines[-1] == ("  decontaminate: no text of short.jsonl is long enough to be looked for")
