"""What optimizers keep, by arithmetic; tests/integration/test_optimizers.py has the real ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from runner.plan import memory
from runner.plan.fit import fit, single_changes
from runner.plan.job import Job, Memory
from runner.plan.machines import hardware
from runner.plan.memory import training_memory
from runner.plan.optimizers import OPTIMIZERS, PAGED, Tensor, state_bytes, staying_bytes, step_bytes
from runner.plan.shapes import Shapes, shapes_of
from runner.recipe.load import load_recipe
from runner.recipe.schema import load_schema
from tests.chain import ROOT

LARGE, SMALL = Tensor(1000, 1000), Tensor(4095)


def llama(name: str) -> Shapes:
    path: Path = ROOT / "runner" / "plan" / "data" / "published" / f"{name}.json"
    return shapes_of(json.loads(path.read_text()))


def full_8b(optim: str, *, pages: bool = False) -> tuple[Shapes, Job]:
    job = Job.of(load_recipe(ROOT / "recipes" / "course" / "10.2-1b-full.yaml"))
    return llama("llama-3.1-8b"), dataclasses.replace(job, optim=optim, pages=pages)


def part(found: Memory, optim: str) -> int:
    return next(item.bytes for item in found.items if item.name == f"optimizer ({optim})")


def test_every_optimizer_of_the_schema_has_a_size() -> None:
    names = load_schema()["properties"]["train"]["properties"]["optim"]["enum"]
    assert set(names) == OPTIMIZERS


@pytest.mark.parametrize(
    ("optim", "large", "small"),
    [
        ("adamw_torch", 8_000_000, 8 * 4095),
        ("adamw_torch_fused", 8_000_000, 8 * 4095),
        ("adamw_8bit", 2_000_000 + 2 * 4 * 3907, 8 * 4095),  # 3906.25 blocks of 256
        ("paged_adamw_8bit", 2_000_000 + 2 * 4 * 3907, 8 * 4095),
        ("paged_adamw_32bit", 8_000_000, 8 * 4095),
        ("adafactor", 4 * 2000, 4 * 4095),
        ("sgd", 0, 0),
    ],
)
def test_bytes_of_the_states(optim: str, large: int, small: int) -> None:
    assert state_bytes(optim, [LARGE]) == large
    assert state_bytes(optim, [SMALL]) == small
    assert state_bytes(optim, [LARGE, SMALL]) == large + small


def test_an_embedding_keeps_32_bits() -> None:
    embedding = dataclasses.replace(LARGE, embedding=True)
    assert state_bytes("adamw_8bit", [embedding]) == state_bytes("adamw_torch", [LARGE])


def test_of_paged_states_one_tensor_stays_and_what_is_small() -> None:
    tensors = [LARGE, LARGE, Tensor(2000, 1000), SMALL]
    largest = state_bytes("paged_adamw_32bit", [Tensor(2000, 1000), SMALL])
    assert staying_bytes("paged_adamw_32bit", tensors) == largest
    assert staying_bytes("adamw_8bit", tensors) == state_bytes("adamw_8bit", tensors)


def test_a_step_takes_what_its_loop_makes() -> None:
    assert step_bytes("adamw_torch", [LARGE, SMALL]) == 4 * (1_000_000 + 4095)
    assert step_bytes("adafactor", [LARGE, SMALL]) == 8_000_000
    assert step_bytes("adamw_8bit", [LARGE, SMALL]) == 0


def test_the_plan_counts_by_the_optimizer() -> None:
    """8B, every weight: 64 GB of states in 32 bits; a quarter in 8, but for the embeddings."""
    shapes, job = full_8b("adamw_torch")
    assert part(training_memory(shapes, job), "adamw_torch") == 8 * shapes.parameters
    shapes, job = full_8b("adamw_8bit")
    vocabulary = 128256 * 4096
    vectors = (2 * 32 + 1) * 4096  # as large as the least in 8 bits
    others = shapes.parameters - vocabulary
    wanted = 8 * vocabulary + 2 * others + 8 * others // 256
    assert vectors % 4096 == 0
    assert part(training_memory(shapes, job), "adamw_8bit") == wanted


def test_paged_states_leave_a_gpu_with_memory_of_its_own_and_no_other() -> None:
    shapes, together = full_8b("paged_adamw_8bit")
    _, apart = full_8b("paged_adamw_8bit", pages=True)
    in_8_bits = part(training_memory(shapes, together), "paged_adamw_8bit")
    assert in_8_bits > 16e9
    assert part(training_memory(shapes, apart), "paged_adamw_8bit") < in_8_bits / 2
    on_a_processor = part(training_memory(shapes, apart, "cpu"), "paged_adamw_8bit")
    assert on_a_processor == in_8_bits
    least = fit(shapes, apart, 1).phases["train"].total
    assert least < fit(shapes, together, 1).phases["train"].total


def test_where_every_weight_learns_8_bits_are_a_change_that_may_make_it_fit() -> None:
    job = Job.of(load_recipe(ROOT / "recipes" / "course" / "10.2-1b-full.yaml"))
    shapes, card = llama("llama-3.2-1b"), hardware("rtx-4090").budget
    found = fit(shapes, job, card)
    assert found.changes == ("train.optim: adamw_8bit",)
    small = fit(shapes, dataclasses.replace(job, optim="adamw_8bit"), card)
    assert (small.changes, small.changed) == ((), found.changed)


def test_an_adapter_is_not_told_to_save_what_it_does_not_take() -> None:
    job = Job.of(load_recipe(ROOT / "recipes" / "course" / "10.2-8b-lora.yaml"))
    words = [each for each, _ in single_changes(llama("llama-3.1-8b"), job, "train")]
    assert words
    assert not any("optim" in each for each in words)


def test_pages_change_nothing_for_states_that_do_not_page() -> None:
    for optim in sorted(OPTIMIZERS - PAGED):
        shapes, job = full_8b(optim)
        apart = dataclasses.replace(job, pages=True)
        assert training_memory(shapes, job) == training_memory(shapes, apart)


def test_a_value_model_of_ppo_has_states_of_the_same_kind() -> None:
    shapes, job = full_8b("sgd")
    scored = dataclasses.replace(job, scored=True, answer=8)
    found = {item.name: item.bytes for item in training_memory(shapes, scored).items}
    trained = memory.trained_parameters(shapes, job.adapter)
    assert found["its gradients and optimizer"] == 4 * trained
