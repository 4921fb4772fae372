"""`recipe run --shrink` through the real command line, from a config alone and from a GGUF file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner.stages.models import shrunken as twin
from tests import shrunken
from tests.chain import Checkout, copy_checkout
from tests.gguf_files import write_gguf_of_model
from tests.tiny_model import write_tiny_model

RECIPE = """\
schema: 1
name: {name}
model: {model}
data:
  train: [{{path: rows.jsonl, format: alpaca}}]
  validation: {{fraction: 0.3}}
train:
  adapter: {{type: lora, r: 4, lora_alpha: 8}}
  num_train_epochs: 50
  per_device_train_batch_size: 2
  bf16: false
merge: {{}}
gguf: {{quantize: [Q4_K_M], max_perplexity_increase: 0}}
"""


@pytest.fixture(scope="module")
def checkout(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    place = tmp_path_factory.mktemp("shrink-run")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    rows = [
        {"instruction": f"What is {n} and {n}?", "output": f"It is {2 * n}, and no more. " * 4}
        for n in range(60)
    ]
    (made.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_a_config_alone_goes_through_every_stage(checkout: Checkout) -> None:
    """The gate of perplexity would not let any rise through; here it only records."""
    shrunken.write_source("gemma-2-2b", checkout.folder / "model")
    recipe = checkout.folder / "g.yaml"
    recipe.write_text(RECIPE.format(name="g", model="{path: model, attn_implementation: eager}"))
    result = checkout.recipe("run", "--shrink", str(recipe))
    assert result.returncode == 0, result.stderr
    assert "recorded and not required" in result.stderr
    run = checkout.folder / "runs" / "g-shrink" / "latest"
    record = json.loads((run / "run.json").read_text())
    assert record["shrink"]["/train/max_steps"] == 8
    assert record["resolved"]["train"]["max_steps"] == 8
    (gguf,) = (stage for stage in record["stages"] if stage["name"] == "gguf")
    (file,) = gguf["measures"]["files"]
    assert {"Q4_K", "F32"} <= set(file["tensors"])
    assert "perplexity_increase" in file
    planned = checkout.recipe("plan", "--shrink", "--format", "json", str(recipe))
    assert {s["action"] for s in json.loads(planned.stdout)["stages"]} == {"reuse"}
    real = checkout.recipe("plan", "--format", "json", str(recipe))
    assert json.loads(real.stdout)["stages"][0]["action"] == "run"


def test_of_a_gguf_file_only_the_metadata_counts(checkout: Checkout) -> None:
    tiny = write_tiny_model(checkout.folder / "tiny")
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["\u0120\u0120"] = tokenizer["model"]["vocab"].pop("<|unused|>")
    tokenizer["model"]["merges"] = [["\u0120", "\u0120"]]
    (tiny / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_gguf_of_model(tiny, checkout.folder / "tiny.gguf")
    shutil.rmtree(tiny)
    recipe = checkout.folder / "t.yaml"
    recipe.write_text(RECIPE.format(name="t", model="{path: ., file: tiny.gguf}"))
    result = checkout.recipe("run", "--shrink", "--until", "prepare", str(recipe))
    assert result.returncode == 0, result.stderr
    record = json.loads((checkout.folder / "runs" / "t-shrink" / "latest" / "run.json").read_text())
    fetch = record["stages"][0]
    assert fetch["measures"]["shrunken"]["hidden_size"] == 256
    assert fetch["material"]["inputs"]["shrink"] == {"seed": 0, "version": twin.VERSION}
