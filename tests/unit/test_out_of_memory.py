"""Out of memory: the error says what was planned, by kind, and changes that fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.errors import StageFailed
from runner.execution.out_of_memory import explain
from runner.plan.fit import single_changes
from runner.plan.job import Job
from runner.plan.phases import phases_of
from runner.plan.shapes import shapes_of
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.typed import typed
from runner.system import hardware
from runner.system.process import ChildResult, describe_exit
from tests.chain import ROOT
from tests.small_recipe import write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A 1B from its config; it has every change left that there is."""
    changes = [
        "model={path: model, dtype: bfloat16}",
        "train.per_device_train_batch_size=8",
        "data.max_length=2048",
    ]
    write_recipe(tmp_path / "x.yaml")
    config = ROOT / "runner" / "plan" / "data" / "published" / "llama-3.2-1b.json"
    (tmp_path / "model" / "config.json").write_text(config.read_text())
    return load_recipe(tmp_path / "x.yaml", overrides=changes)


@pytest.fixture(autouse=True)
def ten_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 10_000_000_000)


def machine(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """One without a GPU, of which a training may use 85 %."""
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    monkeypatch.setattr(hardware, "memory", lambda: hardware.Memory(memory, memory))


def events(tmp_path: Path, *, loaded: bool) -> Path:
    """Of a run whose model was in memory, or not yet."""
    path = tmp_path / "events.jsonl"
    line = {"stage": "train", "event": "measure", "values": {"memory_by_phase": {}}}
    path.write_text(json.dumps(line) + "\n" if loaded else "")
    return path


def killed(tmp_path: Path) -> str:
    """What is said of a child that the kernel killed for memory."""
    gone = ChildResult(("python",), None, 9, b"", tmp_path / "log", 1.0, 1, False, True, 0)
    return describe_exit(gone)


@pytest.mark.parametrize("code", ["E509", "E500"])
def test_plan_and_changes_are_told(code: str, recipe: Recipe, tmp_path: Path) -> None:
    words = "the GPU has too little memory" if code == "E509" else f"train {killed(tmp_path)}"
    error = StageFailed(words, hint="?", code=code, stage="train")
    explain(error, recipe, events(tmp_path, loaded=True))
    shapes = shapes_of(json.loads((tmp_path / "model" / "config.json").read_text()))
    planned = phases_of(shapes, Job.of(recipe), "cpu")["train"].total
    assert f"planned: about {planned / 1e9:.1f} GB in train" in error.message
    assert "activations" in error.message
    told = re.findall(r"\(about ([\d.]+) GB\)", error.hint)
    assert len(told) == 3
    assert error.hint.count("; or ") == 2
    assert all(float(size) < min(8.5, 0.9 * planned / 1e9) for size in told)


def test_a_load_is_told_of_by_its_own_plan(recipe: Recipe, tmp_path: Path) -> None:
    error = StageFailed(f"train {killed(tmp_path)}", hint="?", code="E500", stage="train")
    explain(error, recipe, events(tmp_path, loaded=False))
    assert "GB in load: weights 2.5 GB" in error.message


def test_where_nothing_fits_what_takes_least_is_told(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 1_500_000_000)
    error = StageFailed(f"train {killed(tmp_path)}", hint="?", code="E500", stage="train")
    explain(error, recipe, events(tmp_path, loaded=True))
    assert "no known change makes it fit 1.3 GB; least takes data.max_length: 256 (" in error.hint
    assert f"`recipe plan {typed(recipe)} --hardware all` counts for other" in error.hint


def test_tasks_of_the_harness_are_told_of_by_their_own_plan(recipe: Recipe, tmp_path: Path) -> None:
    task = "task: t\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
    (tmp_path / "task.yaml").write_text(task)
    (tmp_path / "asked.jsonl").write_text(json.dumps({"a": "x", "b": "y"}) + "\n")
    changes = [
        "model={path: model, dtype: bfloat16}",
        "evaluate={samples: 1, harness: {tasks: [{path: task.yaml, data: asked.jsonl}]}}",
    ]
    asked = load_recipe(tmp_path / "x.yaml", overrides=changes)
    error = StageFailed(f"harness {killed(tmp_path)}", hint="?", code="E500", stage="harness")
    explain(error, asked, events(tmp_path, loaded=True))
    shapes = shapes_of(json.loads((tmp_path / "model" / "config.json").read_text()))
    planned = phases_of(shapes, Job.of(asked), "cpu")["harness"].total
    assert f"planned: about {planned / 1e9:.1f} GB in harness: weights" in error.message
    assert "model.quantization: {load_in_4bit: true} (about " in error.hint
    assert "harness" not in phases_of(shapes, Job.of(recipe))


def test_changes_alone_take_less_in_the_order_of_what_they_save(recipe: Recipe) -> None:
    shapes = shapes_of(json.loads((recipe.folder / "model" / "config.json").read_text()))
    found = single_changes(shapes, Job.of(recipe), "train")
    names = {words.split(":")[0] for words, _ in found}
    assert "train.gradient_checkpointing" in names
    assert "train.per_device_train_batch_size" in names
    assert [size for _, size in found] == sorted(size for _, size in found)


@pytest.mark.parametrize(
    ("stage", "code", "words"),
    [
        ("merge", "E509", "the GPU has too little memory"),
        ("train", "E517", "the loss became nan"),
        ("train", "E500", "train was killed by SIGTERM"),
    ],
)
def test_other_errors_stay_as_they_are(stage: str, code: str, words: str, recipe: Recipe) -> None:
    error = StageFailed(words, hint="?", code=code, stage=stage)
    explain(error, recipe, Path("none"))
    assert (error.message, error.hint) == (words, "?")
