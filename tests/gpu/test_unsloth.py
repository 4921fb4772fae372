"""Unsloth's own kernels, where it is installed: in the measuring interpreter or its environment."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from benchmarks.gpu.interpreter import Chosen
from runner.backends import unsloth
from runner.errors import RecipeToolError
from runner.recipe.load import load_recipe
from runner.system import environments
from tests.training_runs import ScriptRun, documents, done, trace, write_tokens

RECIPE = {
    "schema": 1,
    "name": "tiny",
    "seed": 1,
    "model": {"path": "model", "dtype": "bfloat16"},
    "data": {"train": [{"path": "rows.jsonl", "format": "text"}], "max_length": 256},
    "train": {
        "backend": "unsloth",
        "adapter": {"type": "lora", "r": 4, "target_modules": "all-linear"},
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "optim": "adamw_8bit",
        "bf16": True,
    },
}


@pytest.fixture
def python(stack: Chosen, shared_cache: Path) -> Path:
    """An interpreter with Unsloth; the locked environment is used where it is built."""
    if stack.stack["libraries"].get("unsloth"):
        return stack.python
    try:
        built = environments.find("unsloth", shared_cache)
    except RecipeToolError:
        built = None
    if built is None:
        pytest.skip("unsloth is not installed")
    return built.python


def test_it_trains_and_leaves_what_other_backends_leave(
    python: Path, way_to_gpu: dict[str, str], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    rows = [[each] for each in documents(4)]
    tokens = write_tokens(tmp_path / "train.tokens.safetensors", rows, packed=False)
    run = ScriptRun(
        python,
        "train_unsloth",
        {"settings": unsloth.spec(load_recipe(tmp_path / "tiny.yaml")), "save_steps": 1000},
        {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"},
        tmp_path / "run",
    )
    result = done(run.finish_cold(**way_to_gpu))
    losses = [line["loss"] for line in trace(result)]
    assert len(losses) == 6
    assert all(map(math.isfinite, losses))
    assert "adapter/adapter_model.safetensors" in result.files()
