"""What the plan says of every phase, against trainings by the script itself on a processor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.merge import write_model
from runner.execution.context import SCRIPTS
from runner.plan.job import Job
from runner.plan.phases import beside_of, phases_of
from runner.plan.shapes import Shapes, shapes_of
from runner.recipe.model import Quantization
from tests.integration.test_memory_estimate import ADAPTER, JOB, NONE, QUIET, adapter_data
from tests.integration.test_train_native import FOUR_BITS, SETTINGS
from tests.smollm_models import published_gguf, write_two_layers
from tests.tiny_model import write_tiny_model
from tests.training_runs import Finished, ScriptRun, write_tokens

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


def trained(job: Job, base: Path, python: Path, place: Path) -> Finished:
    """Three steps with a checkpoint after each."""
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
    return found


def measured(run: Finished) -> dict[str, int]:
    """Phase -> bytes at its peak."""
    phases = run.measures()["memory_by_phase"]
    return {name: phases[name]["peak"] for name in PHASES}


def base_of(place: Path, tiny: Path, layers: int) -> Path:
    """A model of 61 million weights a layer, with the tokenizer of `tiny`."""
    base = write_model(place / "model", layers, VOCABULARY)
    for part in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny / part, base / part)
    return base


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("native")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def bare(python: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes of the process with next to no model."""
    return measured(trained(LORA, tiny, python, tmp_path_factory.mktemp("bare") / "run"))["train"]


@pytest.mark.parametrize("name", CASES)
def test_every_phase_takes_about_what_was_planned(
    name: str, python: Path, tiny: Path, bare: int, tmp_path: Path
) -> None:
    case = CASES[name]
    base = base_of(tmp_path, tiny, case.layers)
    planned = phases_of(shapes(base), case.job, "cpu")
    found = measured(trained(case.job, base, python, tmp_path / "run"))
    ratios: dict[str, float] = {}
    for phase in PHASES:
        counted = sum(item.bytes for item in planned[phase].items if item.name != "process")
        ratios[phase] = round((found[phase] - bare) / counted, 2)
    assert all(0.6 < ratio < 4 / 3 for ratio in ratios.values()), ratios


@pytest.fixture(scope="module")
def lora(python: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base of two layers, and an adapter of it."""
    place = tmp_path_factory.mktemp("lora")
    base = base_of(place, tiny, 2)
    return base, trained(LORA, base, python, place / "run").folder / "adapter"


@pytest.fixture(scope="module")
def bare_evaluation(
    tiny: Path,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> int:
    """Bytes of an evaluation with next to no model."""
    place = tmp_path_factory.mktemp("bare evaluation")
    run = trained(LORA, tiny, environment_python("native"), place / "small")
    python, job = environment_python("evaluate"), replace(LORA, length=8, loss=True)
    return evaluated(job, tiny, run.folder / "adapter", python, place / "run")


EVALUATIONS = {
    "a long row": replace(LORA, length=4 * LENGTH, loss=True),
    "prompts at once": replace(LORA, length=LENGTH, questions=4, new_tokens=2),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_takes_about_what_was_planned(
    name: str,
    lora: tuple[Path, Path],
    bare_evaluation: int,
    environment_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Weights, and what a layer keeps of a long row, or of as many tokens in a batch of prompts."""
    job, (base, adapter) = EVALUATIONS[name], lora
    planned = phases_of(shapes(base), job, "cpu")["evaluate"]
    counted = sum(item.bytes for item in planned.items if item.name != "process")
    found = evaluated(job, base, adapter, environment_python("evaluate"), tmp_path / "run")
    assert 2 / 3 < (found - bare_evaluation) / counted < 4 / 3, (found, bare_evaluation, counted)


def evaluated(job: Job, base: Path, adapter: Path, python: Path, place: Path) -> int:
    """Bytes at the peak of the script, with a held-out row, and prompts as long as it."""
    place.mkdir()
    ids = np.random.default_rng(2).integers(5, 250, job.length).tolist()
    tokens = write_tokens(place / "t.safetensors", [[(ids, [1] * job.length)]], packed=False)
    settings = {
        "loss": job.loss,
        "samples": job.questions,
        "max_new_tokens": max(1, job.new_tokens),
        "system": None,
        "trained": "adapter",
        "dtype": "float32",
        "attn_implementation": "sdpa",
        "questions": None,
    }
    prompts = [ids[number:] for number in range(job.questions)]  # of several lengths: padded
    (place / "prompts.jsonl").write_text("".join(map(prompt_line, prompts)))
    inputs = {
        "model": base,
        "trained": adapter,
        "tokens": tokens,
        "prompts": place / "prompts.jsonl",
        "template": base / "chat_template.jinja",
    }
    run = ScriptRun(python, "evaluate", settings, inputs, place).finish_cold(**QUIET)
    assert run.status == 0, run.log
    return int(run.measures()["peak_memory"])


def prompt_line(ids: list[int]) -> str:
    """A held-out prompt as `prepare` writes it."""
    messages = [{"role": "user", "content": "What?"}]
    return json.dumps({"kind": "validation", "messages": messages, "ids": ids}) + "\n"


def test_what_a_base_in_4_bits_is_rebuilt_from_takes_about_what_was_planned(
    tiny: Path, environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """In float32, so that the largest weight, which is quantised, is a large part."""
    job = replace(LORA, dtype="float32", quantization=NF4, rebuilt=True)
    python, base = environment_python("evaluate"), base_of(tmp_path, tiny, 1)
    planned = phases_of(shapes(base), job, "cpu")["constants"]
    counted = sum(item.bytes for item in planned.items if item.name != "process")
    bare, found = (rebuilt(model, python, tmp_path / model.parent.name) for model in (tiny, base))
    assert 2 / 3 < (found - bare) / counted < 4 / 3, (found, bare, counted)


def rebuilt(base: Path, python: Path, place: Path) -> int:
    """Bytes at the peak of the script."""
    settings = {"dtype": "float32", "attn_implementation": "sdpa", "quantization": FOUR_BITS}
    place.mkdir()
    run = ScriptRun(python, "constants", settings, {"model": base}, place).finish_cold(**QUIET)
    assert run.status == 0, run.log
    return int(run.measures()["peak_memory"])


PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(done.stderr[-2000:], file=sys.stderr)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak_of(*argv: object) -> int:
    """Bytes at the peak of a program, in a process that has no other children."""
    words = [sys.executable, "-c", PEAK, *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    status, peak = done.stdout.split()
    assert status == "0", done.stderr
    return int(peak)


def test_a_merge_takes_about_what_was_planned(
    lora: tuple[Path, Path], environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    base, adapter = lora
    planned = beside_of(shapes(base), replace(LORA, merged=True))["merge"].total
    inputs = {"model": base, "adapter": adapter, "template": base / "chat_template.jinja"}
    python = environment_python("export")
    spec = ScriptRun(python, "merge", {"dtype": "bfloat16"}, inputs, tmp_path).spec_file
    found = peak_of(python, SCRIPTS, "merge", spec)
    assert 2 / 3 < found / planned < 4 / 3, (found, planned)


def test_a_conversion_takes_about_what_was_planned(
    llama_cpp: Path, shared_cache: Path, environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two layers of SmolLM2: its embeddings are the largest tensor, as of the whole model."""
    model = write_two_layers(published_gguf(shared_cache), environment_python("data"), tmp_path)
    planned = beside_of(shapes(model), replace(LORA, converted=True))["convert"].total
    converter = [SCRIPTS, "convert_gguf", llama_cpp / "convert_hf_to_gguf.py", model]
    files = ["--outfile", tmp_path / "x.gguf", "--outtype", "bf16", "--model-name", "x"]
    found = peak_of(environment_python("export"), *converter, *files)
    assert 2 / 3 < found / planned < 4 / 3, (found, planned)


def shapes(folder: Path) -> Shapes:
    return shapes_of(json.loads((folder / "config.json").read_text()))
