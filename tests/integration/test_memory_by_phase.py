"""What the plan says of every phase, against trainings by the script itself on a processor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.merge import write_model
from runner.plan.job import Job
from runner.plan.phases import phases_of
from runner.plan.shapes import Shapes, shapes_of
from runner.recipe.model import Quantization
from tests.integration.test_memory_estimate import ADAPTER, JOB, NONE, QUIET, adapter_data
from tests.integration.test_train_native import FOUR_BITS, SETTINGS
from tests.tiny_model import write_tiny_model
from tests.training_runs import ScriptRun, write_tokens

VOCABULARY, ROWS, LENGTH = 4096, 2, 512
EVERY_WEIGHT = {"type": "none"}
PHASES = ("load", "first step", "train", "save")


@dataclass(frozen=True)
class Case:
    """A job, and the layers of its model: 61 million weights each."""

    job: Job
    layers: int = 2


LORA = replace(JOB, batch=ROWS, length=LENGTH)
NF4 = Quantization(**FOUR_BITS)
CASES = {
    "lora": Case(LORA),
    "checkpointing": Case(replace(LORA, gradient_checkpointing=True)),
    "dora": Case(replace(LORA, adapter=replace(ADAPTER, use_dora=True))),
    "qlora": Case(
        replace(LORA, dtype="bfloat16", bf16=True, quantization=NF4, gradient_checkpointing=True)
    ),
    "every weight": Case(replace(LORA, adapter=NONE), layers=1),
}


def measured(job: Job, base: Path, python: Path, place: Path) -> dict[str, int]:
    """Phase -> bytes at its peak, of three steps with a checkpoint after each."""
    generator = np.random.default_rng(1)
    texts = (generator.integers(5, 250, LENGTH).tolist() for _ in range(2 * ROWS))
    rows = [[(text, [1] * LENGTH)] for text in texts]
    place.mkdir()
    tokens = write_tokens(place / "train.tokens.safetensors", rows, packed=False)
    settings = SETTINGS | {
        "max_steps": 3,
        "per_device_train_batch_size": job.batch,
        "gradient_accumulation_steps": 1,
        "dtype": job.dtype,
        "bf16": job.bf16,
        "gradient_checkpointing": job.gradient_checkpointing,
        "adapter": EVERY_WEIGHT if job.adapter.type == "none" else adapter_data(job.adapter),
    }
    if job.quantization is not None:
        settings["quantization"] = FOUR_BITS
    spec = {"settings": settings, "save_steps": 1, "canary": False}
    inputs = {"model": base, "tokens": tokens, "template": base / "chat_template.jinja"}
    found = ScriptRun(python, "train_native", spec, inputs, place).finish_cold(**QUIET)
    assert found.status == 0, found.log
    phases = found.measures()["memory_by_phase"]
    return {name: phases[name]["peak"] for name in PHASES}


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("native")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def bare(python: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes of the process with next to no model."""
    return measured(LORA, tiny, python, tmp_path_factory.mktemp("bare") / "run")["train"]


@pytest.mark.parametrize("name", CASES)
def test_every_phase_takes_about_what_was_planned(
    name: str, python: Path, tiny: Path, bare: int, tmp_path: Path
) -> None:
    case = CASES[name]
    base = write_model(tmp_path / "model", case.layers, VOCABULARY)
    for part in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny / part, base / part)
    planned = phases_of(shapes(base), case.job, "cpu")
    found = measured(case.job, base, python, tmp_path / "run")
    ratios: dict[str, float] = {}
    for phase in PHASES:
        counted = sum(item.bytes for item in planned[phase].items if item.name != "process")
        ratios[phase] = round((found[phase] - bare) / counted, 2)
    assert all(0.6 < ratio < 4 / 3 for ratio in ratios.values()), ratios


def shapes(folder: Path) -> Shapes:
    return shapes_of(json.loads((folder / "config.json").read_text()))
