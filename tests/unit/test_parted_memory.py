"""What one of several processes takes: a part of the model, and all of its own activations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runner.plan.machines import hardware
from runner.plan.memory import FLOAT32, Job, Memory, loading_memory, training_memory
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


def test_the_first_process_puts_what_it_writes_together(full: Job) -> None:
    """With so many parts that nothing else is as large."""
    found = items(on(full, 64))
    assert found["whole weights, and as they are written"] == 2 * FLOAT32 * MODEL.parameters
    assert "whole weights, and as they are written" not in items(on(full, 2))


def test_every_process_loads_the_whole_model(full: Job) -> None:
    two = dataclasses.replace(full, processes=2)
    assert loading_memory(MODEL, two) == loading_memory(MODEL, full)


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
