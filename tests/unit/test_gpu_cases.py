"""The table of benchmarks/gpu: the product itself reads the same recipe so, and can plan it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.gpu import memory, seventy, throughput
from benchmarks.gpu.cases import CASES, EXPECTED, FOUR_BITS, NEW_TOKENS, SEVENTY, Case
from benchmarks.gpu.child import PHASES
from runner.backends import native
from runner.plan.job import Job
from runner.recipe.load import load_recipe

ALL = (*CASES, SEVENTY)
GB = 10**9


def recipe_of(case: Case) -> dict[str, Any]:
    """The recipe whose training the case is."""
    adapter: dict[str, Any] = {"type": "none"}
    if not case.method.startswith("full"):
        adapter = {"type": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    if case.method == "dora":
        adapter["use_dora"] = True
    model: dict[str, Any] = {"path": "model", "dtype": "bfloat16"}
    if case.method == "qlora":
        model["quantization"] = dataclasses.asdict(FOUR_BITS)
    row = {"path": "rows.jsonl", "format": "preference" if case.method == "dpo" else "alpaca"}
    train = {
        "method": "dpo" if case.method == "dpo" else "sft",
        "adapter": adapter,
        "max_steps": case.steps,
        "per_device_train_batch_size": case.batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "optim": case.optim,
        "bf16": True,
        "gradient_checkpointing": case.checkpointing,
    }
    evaluate = {"loss": True, "samples": 0, "max_new_tokens": NEW_TOKENS}
    return {
        "schema": 1,
        "name": "case",
        "model": model,
        "data": {
            "train": [row],
            "max_length": case.length,
            "validation": {"fraction": 0.5},
        },
        "train": train,
        **({"evaluate": evaluate} if case.evaluates else {}),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


def test_the_table_covers_what_it_should() -> None:
    assert len(CASES) == 16
    assert len({case.name for case in ALL}) == len(ALL)
    methods = {case.method for case in CASES}
    assert methods == {"lora", "qlora", "dora", "full", "full-8bit", "dpo"}
    assert {case.checkpointing for case in CASES} == {False, True}
    sizes = sorted(case.shapes.parameters for case in CASES)
    assert sizes[0] < 0.3 * GB
    assert sizes[-1] > 8 * GB


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_a_case_is_what_the_product_makes_of_its_recipe(case: Case, folder: Path) -> None:
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(recipe_of(case)))
    recipe = load_recipe(path)
    assert (
        dataclasses.replace(Job.of(recipe), parted=False) == case.job
    )  # two machines take no part here
    assert native.spec(recipe) == case.settings
    assert native.script(recipe) == case.script


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_every_case_can_be_planned(case: Case) -> None:
    predicted = case.predicted("cuda")
    assert list(predicted) == [*PHASES, *(["evaluate"] if case.evaluates else [])]
    assert all(memory.total > case.shapes.parameters // 2 for memory in predicted.values())


def test_all_but_the_largest_fit_a_small_device_and_the_largest_a_spark() -> None:
    assert [memory.too_large(case, 32 * GB) for case in CASES] == [""] * len(CASES)
    assert memory.too_large(SEVENTY, 128 * GB) == ""
    reason = memory.too_large(SEVENTY, 24 * GB)
    assert reason.startswith("the plan counts ")
    assert reason.endswith("and the device has 24.0 GB")


def test_the_plan_of_the_largest_lies_where_it_is_expected() -> None:
    assert SEVENTY.shapes.parameters > 70 * GB
    assert (
        EXPECTED[0] < max(each.total for each in SEVENTY.predicted("cuda").values()) < EXPECTED[1]
    )


def test_a_device_with_memory_of_its_own_holds_no_copy_of_what_is_saved() -> None:
    full = next(case for case in CASES if case.method == "full")
    shared, apart = (full.predicted("cuda", each)["save"].total for each in (True, False))
    assert shared - apart == 4 * full.shapes.parameters


# --- predicted beside measured


def phase_of(found: dict[str, int]) -> dict[str, Any]:
    return memory.compared(CASES[0], {"train": found}, "cuda")["train"]


def test_a_ratio_is_measured_over_planned() -> None:
    plan = CASES[0].predicted("cuda")["train"].total
    assert phase_of({"in_use": plan})["ratio"] == 1.0
    assert phase_of({"in_use": 2 * plan})["ratio"] == 2.0


@pytest.mark.parametrize(
    ("part", "within"), [(1.0, True), (1.11, True), (1.12, False), (0.9, False)]
)
def test_within_is_a_tenth_of_what_was_measured(part: float, within: bool) -> None:
    plan = CASES[0].predicted("cuda")["train"].total
    assert phase_of({"in_use": int(plan * part)})["within"] is within


def test_tensors_are_beside_the_plan_without_its_constant() -> None:
    items = CASES[0].predicted("cuda")["train"].items
    tensors = sum(item.bytes for item in items if item.name != "process")
    found = phase_of({"in_use": 1, "tensors": tensors, "reserved": tensors + 5})
    assert (found["tensors_ratio"], found["reserved"]) == (1.0, tensors + 5)


@pytest.mark.parametrize(("peak", "expected"), [(44, False), (45, True), (55, True), (56, False)])
def test_the_largest_is_as_expected_or_not(peak: int, expected: bool) -> None:
    row = {
        "name": SEVENTY.name,
        "phases": {"load": {"measured": 1}, "train": {"measured": peak * GB}},
    }
    assert seventy.row_of(row)["as_expected"] is expected


def test_the_largest_that_was_not_run_has_no_peak() -> None:
    row = {"name": SEVENTY.name, "state": "not run", "reason": "too little"}
    assert seventy.row_of(row) == row


# --- speed


def events(rate: float, count: int = 6) -> list[dict[str, Any]]:
    tokens = {"non_pad": 1000, "padded": 1000, "supervised": 900}
    loads = {"event": "measure", "stage": "train", "values": {}}
    step = {"event": "progress", "stage": "train", "tokens": tokens, "time": 1.0}
    return [loads, *({**step, "tokens_per_second": rate} for _ in range(count))]


def test_speed_leaves_the_warm_up_out_and_knows_the_part_of_the_peak() -> None:
    found = throughput.speed(CASES[0], events(2000.0), "NVIDIA H200")
    assert (found["steps"], found["tokens_per_second"]) == (4, 2000.0)
    assert 0 < found["mfu"] < 0.01


def test_a_device_without_a_file_has_no_part_of_a_peak() -> None:
    assert throughput.speed(CASES[0], events(2000.0), "Some GPU")["mfu"] is None


def test_what_no_device_can_do_is_refused() -> None:
    found = throughput.speed(CASES[0], events(1e12), "NVIDIA H200")
    assert "cannot do more than" in found["refused"]
    assert "tokens_per_second" not in found


def test_a_training_that_ended_in_its_warm_up_has_no_speed() -> None:
    assert "2 steps were told of" in throughput.speed(CASES[0], events(1.0, 2), "x")["refused"]
