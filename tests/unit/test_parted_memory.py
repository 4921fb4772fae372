"""What one of several processes takes: a part of the model, and all of its own activations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runner.plan.fit import phases_of, single_changes
from runner.plan.job import FLOAT32, Job, Memory
from runner.plan.machines import hardware
from runner.plan.memory import loading_memory, training_memory
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from tests.chain import ROOT
from tests.unit.test_fit import shapes

MODEL = shapes("llama-3.1-8b")
LAYERS = 32


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(ROOT / "recipes" / "course" / "10.2-8b-lora.yaml")


@pytest.fixture(scope="module")
def full(recipe: Recipe) -> Job:
    """Every weight of an 8B model, one row of 1024 tokens."""
    none = dataclasses.replace(recipe.train.adapter, type="none", r=0, target_modules=())
    return dataclasses.replace(
        Job.of(recipe), adapter=none, bf16=True, gradient_checkpointing=True, batch=1, length=1024
    )


def on(job: Job, processes: int, here: int = 1, device: str = "cuda") -> Memory:
    return training_memory(MODEL, dataclasses.replace(job, processes=processes, here=here), device)


def items(memory: Memory) -> dict[str, int]:
    return {item.name: item.bytes for item in memory.items}


@pytest.mark.parametrize("processes", [2])
def test_weights_gradients_and_optimizer_are_in_parts(full: Job, processes: int) -> None:
    found = items(on(full, processes))
    every = FLOAT32 * MODEL.parameters
    for name, size in (("weights", 1), ("gradients", 1), ("optimizer (adamw_torch)", 2)):
        part = found[f"{name}, 1/{processes} of all"]
        assert 0 <= processes * part - size * every < processes


def test_activations_are_not_in_parts(recipe: Recipe) -> None:
    job = Job.of(recipe)
    names = ("kept input of every layer", "logits and loss")
    one, two = items(training_memory(MODEL, job)), items(on(job, 2))
    assert {name: one[name] for name in names} == {name: two[name] for name in names}


def test_two_layers_and_what_is_outside_of_them_are_whole_for_a_while(full: Job) -> None:
    found = items(on(full, 2))["layers put together"]
    outside = 2 * MODEL.vocabulary * MODEL.hidden + MODEL.hidden  # embeddings, head, last norm
    layer = (MODEL.parameters - outside) // LAYERS
    gradient = MODEL.parameters // LAYERS
    assert found == pytest.approx(FLOAT32 * (outside + 2 * layer + gradient), rel=1e-6)


def test_every_weight_of_8b_fits_two_sparks_and_not_one(full: Job) -> None:
    budget = hardware("dgx-spark").budget
    assert training_memory(MODEL, full).total > budget
    assert on(full, 2).total < budget


def test_an_adapter_on_a_base_in_parts(recipe: Recipe) -> None:
    job = Job.of(recipe)
    one, two = items(training_memory(MODEL, job)), items(on(job, 2))
    assert two["weights, 1/2 of all"] == one["weights"] // 2
    assert two["adapter, 1/2 of all"] == one["adapter"] // 2


def test_processes_of_a_machine_share_its_memory_where_there_is_no_gpu(full: Job) -> None:
    alone = on(full, 4, here=1, device="cpu")
    assert on(full, 4, here=2, device="cpu").total == 2 * alone.total
    assert on(full, 4, here=2).total == on(full, 4, here=1).total


def test_a_model_is_written_a_weight_at_a_time(full: Job) -> None:
    """With so many parts that nothing else is as large, and most of it in one weight."""
    sizes = {"vocab_size": 1_000_000, "num_hidden_layers": 4, "tie_word_embeddings": True}
    model = shapes("llama-3.2-1b", **sizes)
    job = dataclasses.replace(full, processes=1000, length=1)
    found = items(training_memory(model, job))["largest weight, put together and written"]
    assert found == 3 * FLOAT32 * 1_000_000 * model.hidden


def test_the_first_process_puts_an_adapter_together(recipe: Recipe) -> None:
    """One that is larger than the base's layers."""
    wide = dataclasses.replace(recipe.train.adapter, r=4096)
    job = dataclasses.replace(Job.of(recipe), adapter=wide, length=8)
    found = items(on(job, 64))["whole adapter, and as it is written"]
    assert found == 2 * 64 * items(on(job, 64))["adapter, 1/64 of all"]


@pytest.mark.parametrize("processes", [2, 3])
def test_every_process_loads_its_part(full: Job, processes: int) -> None:
    job = dataclasses.replace(full, processes=processes)
    found = items(loading_memory(MODEL, job))
    whole = loading_memory(MODEL, full)
    assert found[f"weights, 1/{processes} of all"] == -(-items(whole)["weights"] // processes)
    assert loading_memory(MODEL, job).total < whole.total / processes + 2e9


def test_an_adapter_is_whole_while_it_is_drawn(recipe: Recipe) -> None:
    job = dataclasses.replace(Job.of(recipe), processes=2)
    assert (
        items(loading_memory(MODEL, job))["adapter"] == 2 * items(on(job, 2))["adapter, 1/2 of all"]
    )


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "it brings its own code"),
        ({"quantization_config": {"bits": 4}}, "its files are quantised already"),
    ],
)
def test_what_is_loaded_in_a_way_of_its_own_is_whole_in_every_process(
    full: Job, setting: dict[str, Any], reason: str
) -> None:
    own = shapes("llama-3.1-8b", **setting)
    two = dataclasses.replace(full, processes=2, here=2)
    found = items(loading_memory(own, two))
    assert found[f"weights, all in every process: {reason}"] == FLOAT32 * own.parameters
    on_a_processor = items(loading_memory(own, two, "cpu"))  # whose memory both share
    assert sum(on_a_processor.values()) > 2 * FLOAT32 * own.parameters


def test_70b_in_16_bits_fits_two_sparks_as_the_docs_have_it() -> None:
    """The course's recipe without 4 bits and evaluation."""
    model, budget = shapes("llama-3.1-70b"), hardware("dgx-spark").budget
    recipe = load_recipe(ROOT / "recipes" / "course" / "10.3-70b-qlora.yaml")
    held = dataclasses.replace(recipe.model, quantization=None)
    job = Job.of(dataclasses.replace(recipe, model=held, evaluate=None))
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for nodes in (1, 2, 4):
        phases = phases_of(model, dataclasses.replace(job, processes=nodes))
        load, train = phases["load"].total, phases["train"].total
        fits = "yes" if max(load, train) <= budget else "no"
        assert f"| {nodes} | {load / 1e9:.1f} GB | {train / 1e9:.1f} GB | {fits} |" in text
        assert fits == ("no" if nodes == 1 else "yes")


def test_what_several_processes_cannot_do_is_not_proposed(full: Job) -> None:
    """4 bits, and states in 8 bits (E290)."""
    job = dataclasses.replace(full, processes=2, batch=64, length=4096)
    words = [each for each, _ in single_changes(MODEL, job, "train")]
    assert words
    assert not any("4bit" in each or "8bit" in each for each in words)


@pytest.mark.parametrize(
    ("train", "rows", "processes"),
    [({}, 1, 1), ({"processes": 3}, 3, 3), ({"processes": 2, "nodes": 2}, 4, 4)],
)
def test_a_step_takes_the_rows_of_all_processes(
    recipe: Recipe, train: dict[str, Any], rows: int, processes: int
) -> None:
    changed = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train))
    assert changed.train.rows_per_step == rows * recipe.train.rows_per_step
    assert Job.of(changed).processes == processes
