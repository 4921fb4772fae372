"""What is recommended, against known numbers: pure arithmetic, no disk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runner.plan.published_models import config_in_wheel
from runner.plan.shapes import shapes_of
from runner.recipe.creation.facts import GB, DataFacts, Machine, ModelFacts, shapes_of_size
from runner.recipe.creation.goals import GOALS
from runner.recipe.creation.inputs import shipped_model
from runner.recipe.creation.recommend import FitsNowhere, Recommendation, recommend
from tests.chain import ROOT

CONFIGS = ROOT / "runner" / "plan" / "data" / "published"
PUBLISHED = json.loads((ROOT / "tests" / "published_sizes.json").read_text())
SMOLLM2 = shapes_of(config_in_wheel(shipped_model()["wheel"]))
SPARK = Machine("spark", 128 * GB)
CPU = Machine("cpu", 16 * GB)
SMALL = DataFacts("alpaca", rows=500, longest=2400, total=300_000)
LONG = DataFacts("messages", rows=5000, longest=5700, total=20_000_000)
HUGE = DataFacts("messages", rows=2_000_000, longest=2400, total=4_000_000_000)


def gpu(memory: int) -> Machine:
    return Machine("gpu", memory * GB)


def model(name: str) -> ModelFacts:
    if name == "smollm2":
        return ModelFacts(name, SMOLLM2, exact=True)
    if name in PUBLISHED:
        config = json.loads((CONFIGS / f"{name}.json").read_text())
        return ModelFacts(name, shapes_of(config), exact=True)
    return ModelFacts(name, shapes_of_size(int(name.removesuffix("B")) * 10**9), exact=False)


def test_the_small_model_has_its_published_size() -> None:
    assert SMOLLM2.parameters == 134_515_008


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_size_alone_gives_shapes_of_about_that_size(name: str) -> None:
    guessed = shapes_of_size(PUBLISHED[name])
    assert guessed.parameters == pytest.approx(PUBLISHED[name], rel=0.06)


CASES = [
    # model, data, machine -> tuning, dtype, checkpointing, GB of memory between
    ("smollm2", SMALL, CPU, "lora", "float32", None, (1, 12)),
    ("smollm2", SMALL, SPARK, "lora", "bfloat16", False, (1, 20)),
    ("smollm2", HUGE, SPARK, "full", "bfloat16", False, (2, 40)),
    ("llama-3.2-1b", SMALL, gpu(24), "lora", "bfloat16", None, (4, 22)),
    ("llama-3.2-3b", HUGE, SPARK, "full", "bfloat16", None, (51, 108)),
    ("llama-3.1-8b", HUGE, SPARK, "full", "bfloat16", True, (100, 108)),  # states in 8 bits
    ("llama-3.1-8b", HUGE, gpu(80), "lora", "bfloat16", None, (18, 66)),
    ("llama-3.1-8b", LONG, SPARK, "lora", "bfloat16", None, (18, 108)),
    ("llama-3.1-8b", LONG, gpu(24), "qlora", "bfloat16", True, (6, 17)),  # 16 bits leave no margin
    ("llama-3.1-8b", SMALL, gpu(12), "qlora", "bfloat16", None, (6, 12)),
    ("llama-3.1-70b", LONG, SPARK, "qlora", "bfloat16", True, (45, 82)),
    (
        "llama-3.1-70b",
        LONG,
        gpu(60),
        "qlora",
        "bfloat16",
        True,
        (45, 56),
    ),  # module 10 of the course
    ("70B", LONG, gpu(60), "qlora", "bfloat16", True, (45, 56)),
    ("32B", SMALL, SPARK, "lora", "bfloat16", None, (64, 108)),
    ("8B", SMALL, Machine("cpu", 64 * GB), "lora", "float32", None, (32, 48)),
    ("8B", SMALL, CPU, "qlora", "bfloat16", None, (6, 12)),
]


def ask(name: str, data: DataFacts, machine: Machine, **more: object) -> Recommendation:
    return recommend(GOALS["chat"], model(name), data, machine, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "data", "machine", "tuning", "dtype", "checkpointing", "memory"), CASES
)
def test_the_way_of_training_follows_from_size_data_and_memory(
    name: str,
    data: DataFacts,
    machine: Machine,
    tuning: str,
    dtype: str,
    checkpointing: bool | None,
    memory: tuple[int, int],
) -> None:
    made = ask(name, data, machine)
    train = made.sections["train"]
    assert made.tuning == tuning
    assert made.sections["model"]["dtype"] == dtype
    assert ("quantization" in made.sections["model"]) == (tuning == "qlora")
    assert (train["adapter"]["type"] == "none") == (tuning == "full")
    assert ("merge" in made.sections) == (tuning != "full")
    if checkpointing is not None:
        assert train["gradient_checkpointing"] is checkpointing
    assert memory[0] * GB <= made.memory.total <= memory[1] * GB
    assert made.fits
    assert made.memory.total <= machine.usable
    assert train["bf16"] is (machine.kind != "cpu")


@pytest.mark.parametrize(
    ("name", "machine"),
    [("llama-3.1-70b", gpu(24)), ("405B", SPARK), ("70B", CPU), ("8B", gpu(4))],
)
def test_what_fits_nowhere_is_said_with_its_numbers(name: str, machine: Machine) -> None:
    with pytest.raises(FitsNowhere) as caught:
        ask(name, SMALL, machine)
    assert caught.value.tuning == "qlora"
    assert caught.value.need > caught.value.have == machine.usable
    forced = ask(name, SMALL, machine, tuning="qlora")
    assert not forced.fits
    why = forced.reasons["/train/per_device_train_batch_size"]
    assert why.startswith("Even this does not fit")


def test_the_four_bit_parts_of_a_70b_are_those_of_the_course() -> None:
    items = {item.name: item.bytes for item in ask("llama-3.1-70b", LONG, SPARK).memory.items}
    assert items["weights in 4 bits"] == pytest.approx(34.2 * GB, rel=0.01)
    assert items["scales of their blocks"] == pytest.approx(1.1 * GB, rel=0.05)
    assert items["adapter"] == pytest.approx(0.83 * GB, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tuning", "rate"),
    [("8B", "lora", 2e-4), ("14B", "qlora", 2e-4), ("32B", "lora", 1e-4), ("70B", "qlora", 1e-4),
     ("smollm2", "full", 2e-5)],
)  # fmt: skip
def test_the_learning_rate_is_that_of_the_papers(name: str, tuning: str, rate: float) -> None:
    made = ask(name, SMALL, SPARK, tuning=tuning)
    assert made.sections["train"]["learning_rate"] == rate


@pytest.mark.parametrize(
    ("total", "rank"),
    [(3_000, 16), (25_000_000, 16), (45_000_000, 32), (110_000_000, 64), (200_000_000, 128)],
)
def test_the_rank_grows_with_the_data(total: int, rank: int) -> None:
    made = ask("smollm2", replace(SMALL, rows=5000, total=total), CPU)
    adapter = made.sections["train"]["adapter"]
    assert (adapter["r"], adapter["lora_alpha"]) == (rank, 2 * rank)


@pytest.mark.parametrize(
    ("longest", "length"), [(10, 256), (576, 256), (579, 512), (5700, 2048), (10**6, 8192)]
)
def test_the_length_is_that_of_the_longest_row(longest: int, length: int) -> None:
    assert (
        ask("8B", replace(SMALL, longest=longest), SPARK).sections["data"]["max_length"] == length
    )


def test_the_length_ends_with_the_models_context() -> None:
    short = replace(model("8B"), shapes=replace(model("8B").shapes, context=1000))
    made = recommend(GOALS["chat"], short, replace(SMALL, longest=10**6), SPARK)
    assert made.sections["data"]["max_length"] == 1000
    assert "may be more than this" in made.reasons["/data/max_length"]


@pytest.mark.parametrize(
    ("rows", "effective", "fraction", "epochs"),
    [(1, 1, 0.0, 3), (9, 1, 0.0, 3), (10, 1, 0.1, 3), (64, 8, 0.1, 3), (128, 16, 0.1, 3),
     (10_000, 16, 0.1, 3), (50_000, 16, 0.02, 2), (3_000_000, 16, 0.0003, 1)],
)  # fmt: skip
def test_batch_held_out_rows_and_passes_follow_the_number_of_rows(
    rows: int, effective: int, fraction: float, epochs: int
) -> None:
    made = ask("smollm2", replace(SMALL, rows=rows), SPARK)
    train = made.sections["train"]
    batch, more = train["per_device_train_batch_size"], train["gradient_accumulation_steps"]
    assert batch * more == effective
    assert made.sections["data"]["validation"] == {"fraction": fraction}
    assert train["num_train_epochs"] == epochs
    assert ("evaluate" in made.sections) == (fraction > 0)
    if fraction:
        assert made.sections["evaluate"]["samples"] <= rows * fraction


@pytest.mark.parametrize(
    ("name", "types"),
    [("smollm2", ["Q8_0"]), ("qwen3-0.6b", ["Q8_0"]), ("llama-3.1-8b", ["Q4_K_M", "Q8_0"]),
     ("llama-3.1-70b", ["Q4_K_M"])],
)  # fmt: skip
def test_the_types_follow_from_size_and_width(name: str, types: list[str]) -> None:
    assert ask(name, SMALL, SPARK).sections["gguf"]["quantize"] == types


@pytest.mark.parametrize("goal", sorted(GOALS))
def test_a_goal_has_its_sections(goal: str) -> None:
    made = recommend(GOALS[goal], model("8B"), replace(SMALL, good=0.5, answered=1.0), SPARK)
    assert set(made.sections) - {"model", "data", "train"} == set(GOALS[goal].sections)
    assert made.sections["train"]["method"] == GOALS[goal].method


def test_every_choice_has_a_reason_and_every_reason_a_choice() -> None:
    for name, tuning in (("8B", "lora"), ("70B", "qlora"), ("smollm2", "full")):
        made = ask(name, SMALL, SPARK, tuning=tuning)
        wanted = {
            "/data/max_length", "/train/adapter", "/train/per_device_train_batch_size",
            "/train/gradient_accumulation_steps", "/train/learning_rate", "/model/dtype",
            "/gguf/quantize",
        }  # fmt: skip
        if tuning != "full":
            wanted |= {"/train/adapter/r", "/train/adapter/lora_alpha"}
        assert wanted <= set(made.reasons)
        for pointer, why in made.reasons.items():
            value = made.sections
            for token in pointer.split("/")[1:]:
                value = value[token]
            assert why.endswith(".")
