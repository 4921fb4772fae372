"""Continued pre-training by the real command line: from texts to held-out perplexity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chain import Checkout, copy_checkout
from tests.tiny_model import write_tiny_model

RECIPE = """
schema: 1
name: texts
model: {path: model, dtype: float32}
data:
  train: [{path: texts.jsonl, format: text}]
  validation: {fraction: 0.3}
  max_length: 256
train:
  method: pretrain
  adapter: {type: lora, r: 4, lora_alpha: 8}
  max_steps: 12
  per_device_train_batch_size: 4
  learning_rate: 5.0e-3
evaluate: {samples: 0}
"""


@pytest.fixture(scope="module")
def checkout(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    place = tmp_path_factory.mktemp("pretraining")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    write_tiny_model(made.folder / "model")
    rows = [{"text": f"Step {n}: tighten the bolts, then wait."} for n in range(40)]
    (made.folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made.folder / "texts.yaml").write_text(RECIPE)
    return made


def test_held_out_texts_become_likelier(checkout: Checkout) -> None:
    result = checkout.recipe("run", "texts.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    run = checkout.folder / "runs" / "texts" / "latest" / "run.json"
    stages = {stage["name"]: stage for stage in json.loads(run.read_text())["stages"]}
    assert list(stages) == ["fetch", "prepare", "train", "evaluate"]
    learned = stages["prepare"]["measures"]["train"]
    assert learned["tokens"]["context"] == learned["rows"]  # the first of each
    measured = stages["evaluate"]["measures"]
    assert measured["perplexity_tuned"] < measured["perplexity_base"] / 2
