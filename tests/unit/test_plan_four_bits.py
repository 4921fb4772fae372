"""What the plan counts for `constants` and `fidelity`, the stages of a base in 4 bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from runner import scripts
from runner.plan.evaluating import HARNESS_BATCH
from runner.plan.four_bits import (
    COMPARED_TOKENS,
    SPARE,
    constants_memory,
    fidelity_memory,
    predictions_bytes,
    scales_bytes,
)
from runner.plan.job import Job, Memory
from runner.plan.phases import PHASES, phases_of
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.stages import ORDER
from tests.unit.test_fit import COURSE, shapes
from tests.unit.test_plan_cost import SPARK, config, cost

LARGE = shapes("llama-3.1-70b")
IN_4_BITS = 68_451_041_280  # numbers of its 560 linear layers
GB = 10**9


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(COURSE / "10.3-70b-qlora.yaml", overrides=["merge.base=dequantized"])


@pytest.fixture(scope="module")
def job(recipe: Recipe) -> Job:
    return Job.of(recipe)


def items(memory: Memory) -> dict[str, int]:
    return {item.name: item.bytes for item in memory.items}


def test_the_scales_of_a_70b_are_a_float32_for_64_numbers() -> None:
    assert scales_bytes(LARGE) == IN_4_BITS // 64 * 4
    assert predictions_bytes(LARGE) == 4 * 2048 * 128_256


def test_the_plan_has_the_disk_and_the_memory_of_both(recipe: Recipe) -> None:
    found = cost(recipe, config("llama-3.1-70b"), SPARK)
    disk = {each.stage: each for each in found.disk}
    assert 4.2 * GB < disk["constants"].stored < 4.4 * GB
    assert (disk["fidelity"].stored, disk["fidelity"].temporary) == (0, predictions_bytes(LARGE))
    assert {"constants", "fidelity"} <= set(found.memory)
    assert {"constants", "fidelity"} <= {each.stage for each in found.time}


def test_constants_take_the_load_or_a_weight_out_of_its_4_bits(job: Job) -> None:
    largest = 28672 * 8192
    found = items(constants_memory(LARGE, job))
    assert found["largest weight, out of its 4 bits"] == 2 * 2 * largest
    on_cpu = items(constants_memory(LARGE, job, "cpu"))  # bitsandbytes takes more there
    assert on_cpu["quantising it"] == 14 * largest


def test_a_merged_model_that_fits_is_in_memory_and_a_larger_one_is_read(job: Job) -> None:
    size = 2 * LARGE.parameters
    enough = int(size * SPARE) + 1
    assert items(fidelity_memory(LARGE, job, have=enough))["merged model"] == size
    for have in (0, enough - 2):
        assert fidelity_memory(LARGE, job, have=have).total < 50 * GB


def test_a_merge_in_float32_is_twice_as_large(job: Job) -> None:
    small = shapes("llama-3.2-1b")
    two, four = (
        fidelity_memory(small, dataclasses.replace(job, merged_dtype=dtype), have=100 * GB)
        for dtype in ("bfloat16", "float32")
    )
    assert items(four)["merged model"] == 4 * small.parameters
    assert four.total > two.total


def test_phases_are_those_of_the_recipe(job: Job) -> None:
    assert list(phases_of(LARGE, job)) == [name for name in PHASES if name != "harness"]
    original = dataclasses.replace(job, rebuilt=False)
    assert "constants" not in phases_of(LARGE, original)
    assert "fidelity" in phases_of(LARGE, original)
    in_order = [name for name in ORDER if name in PHASES]
    assert [name for name in PHASES if name in ORDER] == in_order


def test_without_a_measurement_or_without_4_bits_there_is_none(recipe: Recipe) -> None:
    silent = load_recipe(recipe.source.path, overrides=["merge.fidelity=false"])
    in_16_bits = load_recipe(recipe.source.path, overrides=["model.quantization=null"])
    for each in (silent, in_16_bits):
        assert {"constants", "fidelity"}.isdisjoint(phases_of(LARGE, Job.of(each)))


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("fidelity.py", f"MAX_TOKENS = {COMPARED_TOKENS}  "),
        ("harness.py", f"BATCH = {HARNESS_BATCH}  "),
        ("merging/merged_model.py", f"SPARE = {SPARE}  "),
    ],
)
def test_the_plan_knows_the_limits_of_the_scripts(script: str, line: str) -> None:
    text = (Path(scripts.__file__).parent / script).read_text(encoding="utf-8")
    assert f"\n{line}" in text
