"""What decides the keys of train and evaluate, and what the native backend is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.backends import REGISTRY, load_backend
from runner.errors import RecipeInvalid
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.scripts.training.checkpoints import mark_complete
from runner.stages import evaluate, train
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.digest import canonical_json, file_sha256

RECIPE = """\
schema: 1
name: t
seed: 7
model: {path: model, dtype: float32}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  max_length: 64
train:
  adapter: {type: lora, r: 4, lora_alpha: 8, target_modules: [v_proj, q_proj]}
  max_steps: 4
  save_steps: 2
evaluate: {samples: 3, max_new_tokens: 9, questions: questions.jsonl}
merge: {dtype: bfloat16}
"""
Build = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path) -> Build:
    """The recipe above, with (old, new) replacements."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    row = '"instruction": "q", "output": "a", "prompt": "q", "completion": "a", "text": "q"'
    (tmp_path / "rows.jsonl").write_text(f"{{{row}}}\n" * 20)  # of every format
    (tmp_path / "questions.jsonl").write_text('{"question": "q", "expect": ["a"]}\n')

    def build(*changes: tuple[str, str]) -> Recipe:
        text = RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "recipe.yaml").write_text(text)
        return load_recipe(tmp_path / "recipe.yaml")

    return build


FULL = ("{type: lora, r: 4, lora_alpha: 8, target_modules: [v_proj, q_proj]}", "{type: none}")
NO_MERGE = ("merge: {dtype: bfloat16}\n", "")


def upstream(content: str = "0") -> dict[str, Outputs]:
    """Outputs of earlier stages; every file has the same content."""

    def of(stage: str, *names: str) -> Outputs:
        files = {name: FileEntry(name, 1, content * 64, Class.PORTABLE) for name in names}
        return Outputs(stage, "key", Path("/store") / stage, files)

    return {
        "fetch": of("fetch", "model/config.json", "model/model.safetensors"),
        "prepare": of(
            "prepare",
            "train.tokens.safetensors",
            "validation.tokens.safetensors",
            "prompts.jsonl",
            "chat_template.jinja",
        ),
        "train": of("train", "adapter/adapter_model.safetensors", "model/model.safetensors"),
    }


def key(stage: Any, recipe: Recipe, content: str = "0") -> bytes:
    return canonical_json(stage.key_inputs(recipe, upstream(content)))


@pytest.mark.parametrize(
    "change",
    [
        ("max_steps: 4", "max_steps: 5"),
        ("max_steps: 4", "num_train_epochs: 4"),
        ("seed: 7", "seed: 8"),
        ("r: 4", "r: 5"),
        ("[v_proj, q_proj]", "[v_proj]"),
        ("[v_proj, q_proj]", "all-attention"),
        ("[v_proj, q_proj]", ".*_proj"),
        ("r: 4,", "r: 4, use_dora: true,"),
        ("r: 4,", "r: 4, use_rslora: true,"),
        ("r: 4,", "r: 4, lora_bias: true,"),
        ("r: 4,", "r: 4, exclude_modules: [layers.0.q_proj],"),
        ("r: 4,", "r: 4, modules_to_save: [lm_head],"),
        ("r: 4,", "r: 4, rank_pattern: {q_proj: 2},"),
        ("r: 4,", "r: 4, alpha_pattern: {q_proj: 2},"),
        ("save_steps: 2", "save_steps: 2\n  bf16: true"),
        ("save_steps: 2", "save_steps: 2\n  learning_rate: 1.0e-4"),
        ("float32", "bfloat16"),
        ("max_length: 64", "max_length: 64\n  packing: true"),
    ],
)
def test_what_decides_the_trained_bytes_is_in_the_key(
    recipe: Build, change: tuple[str, str]
) -> None:
    assert key(train, recipe()) != key(train, recipe(change))


@pytest.mark.parametrize(
    "change",
    [
        ("save_steps: 2", "save_steps: 3"),
        ("[v_proj, q_proj]", "[q_proj, v_proj]"),
        ("r: 4,", "r: 4, use_dora: false, use_rslora: false, lora_bias: false,"),
        ("r: 4,", "r: 4, exclude_modules: [], modules_to_save: [],"),
        ("r: 4,", "r: 4, rank_pattern: {}, alpha_pattern: {},"),
        ("max_new_tokens: 9", "max_new_tokens: 10"),
        ("alpaca", "prompt-completion"),
    ],
)
def test_what_does_not_decide_them_is_not(recipe: Build, change: tuple[str, str]) -> None:
    assert key(train, recipe()) == key(train, recipe(change))


def test_settings_that_change_nothing_are_left_out(recipe: Build) -> None:
    """Else a new field would train the world anew."""
    adapter = train.key_inputs(recipe(), upstream())["settings"]["adapter"]
    assert set(adapter) == {"type", "r", "lora_alpha", "lora_dropout", "target_modules"}


def test_other_tokens_or_weights_train_anew(recipe: Build) -> None:
    assert key(train, recipe(), "0") != key(train, recipe(), "1")
    assert key(evaluate, recipe(), "0") != key(evaluate, recipe(), "1")


def test_bfloat16_depends_on_how_the_processor_multiplies_it(
    recipe: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.system.determinism.bfloat16_path", lambda: "some-path")
    assert train.snapshot(recipe()) == {}
    half = recipe(("float32", "bfloat16"))
    assert train.snapshot(half) == {"bfloat16_path": "some-path"}
    assert evaluate.snapshot(half)["bfloat16_path"] == "some-path"
    autocast = recipe(("save_steps: 2", "bf16: true"))
    assert train.snapshot(autocast) == {"bfloat16_path": "some-path"}


def test_the_questions_count_by_content_not_by_name(recipe: Build, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    before = recipe()
    assert evaluate.snapshot(before) == {"questions": file_sha256(questions)}
    questions.rename(tmp_path / "moved.jsonl")
    moved = recipe(("questions.jsonl", "moved.jsonl"))
    assert key(evaluate, moved) == key(evaluate, before)
    assert evaluate.snapshot(moved) == {"questions": file_sha256(tmp_path / "moved.jsonl")}


def test_without_the_section_nothing_is_evaluated(recipe: Build) -> None:
    section = "evaluate: {samples: 3, max_new_tokens: 9, questions: questions.jsonl}\n"
    assert evaluate.wanted(recipe())
    assert not evaluate.wanted(recipe((section, "")))
    assert train.wanted(recipe())


class Recorder:
    """A context that keeps what it was asked to run."""

    def run_script(self, name: str, spec: Any, **more: Any) -> None:
        self.name, self.spec, self.more = name, spec, more


def test_the_script_is_told_how_often_to_save_outside_the_key(recipe: Build) -> None:
    context: Any = Recorder()
    train.run(recipe(), upstream(), Path("/out"), context)
    assert (context.name, context.spec["save_steps"]) == ("train_native", 2)
    assert context.more["environment"] == "native"
    assert context.more["inputs"]["model"] == Path("/store/fetch/model")
    assert context.spec["settings"]["adapter"]["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("changes", "folder"), [((), "adapter"), ((FULL, NO_MERGE), "model")], ids=["lora", "none"]
)
def test_evaluation_reads_what_was_trained(
    recipe: Build, changes: tuple[tuple[str, str], ...], folder: str
) -> None:
    context: Any = Recorder()
    evaluate.run(recipe(*changes), upstream(), Path("/out"), context)
    assert context.spec["trained"] == folder
    assert context.more["inputs"]["trained"] == Path("/store/train") / folder


def test_a_complete_checkpoint_makes_a_training_resumable(tmp_path: Path) -> None:
    assert not train.resumable(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"1")
    assert not train.resumable(tmp_path)
    mark_complete(checkpoint, "job")
    assert train.resumable(tmp_path)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_backend_has_what_a_stage_asks_for(recipe: Build, name: str) -> None:
    backend = load_backend(name)
    assert backend.ENVIRONMENT
    assert backend.script(recipe())
    changes = {"unsloth": [("dtype: float32", "dtype: bfloat16"), ("save_steps: 2", "bf16: true")]}
    assert list(backend.cannot_honour(recipe(*changes.get(name, [])))) == []


def test_what_the_native_backend_cannot_honour_is_an_error_of_the_recipe(recipe: Build) -> None:
    for change in (
        [("[v_proj, q_proj]", "[v_proj, lm_head]")],
        [("[v_proj, q_proj]", "lm_head")],
        [("dtype: float32", "dtype: float16"), ("save_steps: 2", "bf16: true")],
    ):
        with pytest.raises(RecipeInvalid) as caught:
            recipe(*change)
        assert "E215" in {found.code for found in caught.value.diagnostics}


def test_conversations_have_prompts_and_plain_text_has_none(recipe: Build) -> None:
    native = load_backend("native")
    assert native.spec(recipe())["has_prompts"] is True
    assert native.spec(recipe(("alpaca", "text")))["has_prompts"] is False
