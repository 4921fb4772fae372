"""Every weight learns: without an adapter there is nothing to merge, and the rest holds."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.e2e.conftest import Quickstart


def full_fine_tuning(recipes: Path) -> Path:
    """The quickstart's model and data, two small steps of all weights, deployed."""
    recipe = yaml.safe_load((recipes / "quickstart.yaml").read_text())
    for section in ("evaluate", "merge", "benchmark"):
        del recipe[section]
    recipe["name"] = recipe["ollama"]["name"] = "full-fine-tuning"
    recipe["train"] |= {"adapter": {"type": "none"}, "max_steps": 2, "learning_rate": 1e-6}
    recipe["train"]["warmup_steps"] = 0
    path = recipes / "full-fine-tuning.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_a_fully_trained_model_goes_to_ollama_without_a_merge(quickstart: Quickstart) -> None:
    checkout = quickstart.checkout
    path = full_fine_tuning(checkout.folder / "recipes")
    result = checkout.recipe("run", str(path))
    path.unlink()
    assert result.returncode == 0, result.stderr
    run = checkout.folder / "runs" / "full-fine-tuning" / "latest"
    stages = {s["name"]: s for s in json.loads((run / "run.json").read_text())["stages"]}
    assert list(stages) == ["fetch", "prepare", "train", "gguf", "ollama"]
    assert stages["fetch"]["action"] == stages["prepare"]["action"] == "reuse"
    assert stages["ollama"]["measures"]["smoke_answer"]
    manifest = json.loads((run / "manifest.json").read_text())
    trained = manifest["stages"]["train"]
    assert any(name.startswith("model/") and name.endswith(".safetensors") for name in trained)
    assert not any(name.startswith("adapter/") for name in trained)
