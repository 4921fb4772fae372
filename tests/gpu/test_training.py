"""Trainings of a tiny model on the GPU, by the scripts that a run starts."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.cases import FOUR_BITS
from benchmarks.gpu.interpreter import Chosen
from runner.recipe.methods import METHODS
from tests.chain import ROOT
from tests.training_runs import (
    SETTINGS,
    Finished,
    ScriptRun,
    answers,
    chat,
    done,
    trace,
    write_preferences,
    write_tokens,
)

LORA = {
    "type": "lora",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": "all-linear",
}
HALF: dict[str, Any] = {"dtype": "bfloat16", "bf16": True, "max_steps": 6, "adapter": LORA}
NF4: dict[str, Any] = {**HALF, "quantization": dataclasses.asdict(FOUR_BITS)}
WHOLE: dict[str, Any] = {**HALF, "adapter": {"type": "none"}, "learning_rate": 1e-3}
# name -> what it needs beside the scripts' own libraries, its settings
WAYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "lora in float32": (("trl",), {"adapter": LORA}),
    "lora": (("trl",), HALF),
    "lora, checkpointing": (("trl",), {**HALF, "gradient_checkpointing": True}),
    "dora": (("trl",), {**HALF, "adapter": {**LORA, "use_dora": True}}),
    "qlora": (("trl", "bitsandbytes"), NF4),
    "full": (("trl",), WHOLE),
    "full, adamw_8bit": (("trl", "bitsandbytes"), {**WHOLE, "optim": "adamw_8bit"}),
    "dpo": ((), {**HALF, "method": "dpo", **METHODS["dpo"].settings}),
    "kto": ((), {**HALF, "method": "kto", **METHODS["kto"].settings}),
}
PREFERENCES = ("dpo", "kto")

Train = Callable[..., Finished]
Needs = Callable[..., None]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short ones, to be learnt by heart."""
    rows = [
        [chat(("user", f"Q{number}"), ("assistant", "aha " * (number + 2)))] for number in range(3)
    ]
    return write_tokens(
        tmp_path_factory.mktemp("rows") / "train.tokens.safetensors", rows, packed=False
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(
        tmp_path_factory.mktemp("pairs") / "train.tokens.safetensors", answers(4)
    )


def test_a_training_over_4_bits_learns(train: Train, conversations: Path, needs: Needs) -> None:
    needs("trl", "bitsandbytes")
    result = done(train(conversations, **NF4 | {"max_steps": 12}))
    losses = [line["loss"] for line in trace(result)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert result.measures()["quantized_modules"] == 14


@pytest.mark.parametrize("way", WAYS)
def test_two_runs_by_one_seed_give_the_same_bytes(
    way: str, train: Train, conversations: Path, pairs: Path, needs: Needs
) -> None:
    libraries, settings = WAYS[way]
    needs(*libraries)
    prefers = way in PREFERENCES
    tokens, name = (
        (pairs, "train_preference_native") if prefers else (conversations, "train_native")
    )
    first, again = (done(train(tokens, name=name, **settings)) for _ in range(2))
    assert trace(first) == trace(again)
    differing = [path for path, content in first.files().items() if again.files()[path] != content]
    assert differing == []


# A GPU with room for nothing, then the script as it is started.
NO_ROOM = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(1e-7)
from runner.scripts.spec import main
from runner.scripts.train_native import train
from runner.scripts.training.torch_setup import told_of_gpu
main(told_of_gpu(train))
"""


def test_too_little_memory_is_an_error_with_a_way_out(
    stack: Chosen,
    way_to_gpu: dict[str, str],
    model: Path,
    conversations: Path,
    tmp_path: Path,
    needs: Needs,
) -> None:
    needs("trl")
    run = ScriptRun(
        stack.python,
        "train_native",
        {"settings": SETTINGS | HALF, "save_steps": 1000},
        {"model": model, "tokens": conversations, "template": model / "chat_template.jinja"},
        tmp_path,
    )
    said = subprocess.run(
        [str(stack.python), "-c", NO_ROOM, str(run.spec_file)],
        env={**run.environment(), **way_to_gpu, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1, said.stderr[-2000:]
    error = [event for event in run.events() if event["event"] == "error"][-1]
    assert error["code"] == "E509"
    assert "per_device_train_batch_size" in error["hint"]
