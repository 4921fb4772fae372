"""Preferences by the real command line: from rows to a merged model, or to one that scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout, copy_checkout
from tests.tiny_model import write_tiny_model

RECIPE = """
schema: 1
name: METHOD
model: {path: model, dtype: float32}
data:
  train: [{path: pairs.jsonl, format: preference}]
  validation: {fraction: 0.3}
  max_length: 256
train:
  method: METHOD
  adapter: {type: lora, r: 4, lora_alpha: 8}
  max_steps: 8
  per_device_train_batch_size: 4
  learning_rate: 5.0e-3
evaluate: {samples: SAMPLES, max_new_tokens: 4}
"""


@pytest.fixture(scope="module")
def checkout(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    place = tmp_path_factory.mktemp("preferences")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    write_tiny_model(made.folder / "model")
    rows = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"BAD {n}"} for n in range(40)]
    (made.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, samples, more in (("dpo", 2, "merge: {}\n"), ("reward", 0, "")):
        text = RECIPE.replace("METHOD", name).replace("SAMPLES", str(samples))
        (made.folder / f"{name}.yaml").write_text(text + more)
    return made


def stages_of_run(checkout: Checkout, name: str, *more: str) -> dict[str, dict[str, Any]]:
    result = checkout.recipe("run", f"{name}.yaml", *more)
    assert result.returncode == 0, result.stdout + result.stderr
    return stages_of(checkout, name)


def stages_of(checkout: Checkout, name: str) -> dict[str, dict[str, Any]]:
    record = json.loads((checkout.folder / "runs" / name / "latest" / "run.json").read_text())
    return {stage["name"]: stage for stage in record["stages"]}


def test_dpo_goes_from_rows_to_a_merged_model_and_is_not_trained_twice(checkout: Checkout) -> None:
    result = checkout.recipe("run", "dpo.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    for words in ("preferred  ", "nats since the base", "too few held-out rows"):  # 12 pairs
        assert words in result.stdout
    stages = stages_of(checkout, "dpo")
    assert list(stages) == ["fetch", "prepare", "train", "evaluate", "merge"]
    assert stages["prepare"]["measures"]["train"]["answers"]["chosen"]["count"] == 28
    measured = stages["evaluate"]["measures"]
    assert measured["preference_margin_change_low"] > 0
    shown = checkout.recipe("run", "dpo.yaml")
    assert shown.returncode == 0
    assert "up to date" in shown.stdout + shown.stderr
    run = checkout.folder / "runs" / "dpo" / "latest"
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    margins = [line["margins"] for line in lines if "margins" in line]
    assert len(margins) == 8


def test_a_reward_model_ends_with_its_evaluation(checkout: Checkout) -> None:
    stages = stages_of_run(checkout, "reward")
    assert list(stages) == ["fetch", "prepare", "train", "evaluate"]
    assert stages["evaluate"]["measures"]["preference_accuracy_tuned"] > 0.8


def test_llamafactory_gives_the_same_adapter_of_the_same_tokens(checkout: Checkout) -> None:
    few = ("--set", "train.max_steps=3", "--until", "train")
    ours = stages_of_run(checkout, "dpo", *few)
    theirs = stages_of_run(checkout, "dpo", *few, "--backend", "llamafactory")
    assert theirs["prepare"]["action"] == "reuse"
    assert theirs["train"]["action"] == ours["train"]["action"] == "run"
    runs = sorted((checkout.folder / "runs" / "dpo").iterdir())
    weights = {
        (run / "adapter" / "adapter_model.safetensors").read_bytes()
        for run in runs
        if not run.is_symlink() and json.loads((run / "run.json").read_text())["until"] == "train"
    }
    assert len(weights) == 1
