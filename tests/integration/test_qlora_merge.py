"""A QLoRA from rows to a merged model, into both bases: the bytes, and how near each one is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from runner.plan.cost import Machine, cost_of
from runner.plan.plan import Action, Step
from runner.recipe.load import load_recipe
from runner.recipe.model_facts import Facts
from runner.scripts.weights.safetensors_stream import SafetensorsFile
from tests.chain import Checkout, copy_checkout
from tests.tiny_chain import write_tiny_chain

BASES = ("original", "dequantized")
QLORA = """
schema: 1
name: tiny
model: {path: model, dtype: bfloat16, quantization: {load_in_4bit: true}}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  validation: {fraction: 0.3}
  max_length: 256
train:
  adapter: {type: lora, r: 4, lora_alpha: 32, target_modules: all-linear}
  max_steps: 30
  learning_rate: 5.0e-3
  per_device_train_batch_size: 4
merge: {}
"""


@dataclass(frozen=True)
class Chains:
    """One training, merged into both bases."""

    checkout: Checkout
    runs: dict[str, Path]

    def stages(self, base: str) -> dict[str, dict[str, Any]]:
        record = json.loads((self.runs[base] / "run.json").read_text())
        return {stage["name"]: stage for stage in record["stages"]}

    def fidelity(self, base: str) -> dict[str, Any]:
        found: dict[str, Any] = self.stages(base)["fidelity"]["measures"]
        return found


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Chains:
    place = tmp_path_factory.mktemp("qlora")
    checkout = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    write_tiny_chain(checkout)
    (checkout.folder / "tiny.yaml").write_text(QLORA)
    runs = {}
    for base in BASES:
        done = checkout.recipe("run", "tiny.yaml", "--set", f"merge.base={base}")
        assert done.returncode == 0, done.stdout + done.stderr
        runs[base] = (checkout.folder / "runs" / "tiny" / "latest").resolve()
        assert f"the {base} base: KL " in done.stdout + done.stderr
    return Chains(checkout, runs)


def test_the_second_base_trains_nothing_again(chains: Chains) -> None:
    actions = {name: stage["action"] for name, stage in chains.stages("dequantized").items()}
    assert actions == {
        **dict.fromkeys(("fetch", "prepare", "train"), "reuse"),
        **dict.fromkeys(("constants", "merge", "fidelity"), "run"),
    }
    assert "constants" not in chains.stages("original")


def test_the_dequantized_base_is_the_nearer_one(chains: Chains) -> None:
    """Here, where what 4 bits lose is much and the training a little."""
    original, dequantized = (chains.fidelity(base) for base in BASES)
    assert (original["base"], dequantized["base"]) == BASES
    for name in ("loss_base", "loss_unmerged", "kl_training", "tokens", "rows"):
        assert original[name] == dequantized[name]
    assert original["loss_unmerged"] < original["loss_base"]
    assert 0 < dequantized["kl_merged"] < original["kl_merged_low"]
    assert abs(dequantized["loss_change"]) < abs(original["loss_change"])
    for found in (original, dequantized):
        assert found["kl_merged_low"] <= found["kl_merged"] <= found["kl_merged_high"]
        change = found["loss_merged"] - found["loss_unmerged"]
        assert found["loss_change"] == pytest.approx(change)
        assert found["far"] == (found["kl_merged"] > 0.1 * found["kl_training"])


def test_layers_that_were_not_held_in_4_bits_stay(chains: Chains) -> None:
    base = load_file(chains.checkout.folder / "model" / "model.safetensors")
    merged = {name: weights(chains.runs[name]) for name in BASES}
    assert set(merged["original"]) == set(merged["dequantized"]) == set(base)
    held = {name for name in base if name.endswith("_proj.weight")}
    assert len(held) == 14
    for name in base:
        same = merged["original"][name] == merged["dequantized"][name]
        assert same == (name not in held), name


def weights(run: Path) -> dict[str, bytes]:
    """Bytes of every merged tensor: numpy cannot name bfloat16."""
    with SafetensorsFile(run / "merged" / "model" / "model.safetensors") as file:
        return {spec.name: file.read(spec.name).tobytes() for spec in file.specs}


def test_the_merged_weights_are_derived_again_byte_by_byte(chains: Chains) -> None:
    """From the run's own constants: a GPU that wrote them need not be there."""
    done = chains.checkout.recipe("verify", str(chains.runs["dequantized"]), "--level", "export")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "merge" in done.stdout + done.stderr
    assert (chains.runs["dequantized"] / "constants" / "constants.json").exists()


def test_the_constants_take_what_was_planned(chains: Chains) -> None:
    """Beside the header of the file, to the byte."""
    recipe = load_recipe(chains.checkout.folder / "tiny.yaml", overrides=["merge.base=dequantized"])
    config = json.loads((chains.checkout.folder / "model" / "config.json").read_text())
    steps = [Step(name, Action.RUN, "") for name in ("constants", "fidelity")]
    facts, machine = Facts(config, "the model"), Machine(2, "", "cpu")
    constants, fidelity = cost_of(recipe, steps, facts, Path("none"), machine).disk
    folder = chains.runs["dequantized"] / "constants"
    with SafetensorsFile(folder / "constants.safetensors") as file:
        written = sum(spec.row_bytes * spec.shape[0] for spec in file.specs)
    assert constants.stored == written > 0
    assert (folder / "constants.json").stat().st_size < written
    compared = chains.fidelity("dequantized")["tokens"]
    assert fidelity.temporary >= 4 * compared * config["vocab_size"] > fidelity.stored == 0
