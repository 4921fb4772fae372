"""Every optimizer of `train.optim`: what it keeps, against the arithmetic; equal bytes; resume."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.plan.optimizers import OPTIMIZERS, state_bytes
from runner.plan.shapes import shapes_of
from runner.plan.trained import trained_tensors
from tests.chain import ROOT
from tests.integration.test_memory_estimate import ADAPTER, NONE, adapter_data
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS,
    ScriptRun,
    WarmInterpreter,
    documents,
    done,
    write_tokens,
)

# Made for these tests: tensors on both sides of 4096 numbers, an output layer of its own, biases.
CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 130,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
ADAPTERS = {
    "adapter": dataclasses.replace(ADAPTER, r=65, use_dora=True),
    "saved": dataclasses.replace(
        ADAPTER, target_modules=("o_proj",), modules_to_save=("embed_tokens",)
    ),
    "every weight": NONE,
}
# The optimizers as Transformers' Trainer makes them, after one step; constants are not counted.
STATES = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
from peft import LoraConfig, get_peft_model
from runner.scripts.training.adapter_targets import resolve

def states(asked, adapter, optim):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**asked["config"]))
    if adapter["type"] == "lora":
        model = get_peft_model(model, LoraConfig(
            task_type="CAUSAL_LM", r=adapter["r"], use_dora=adapter["use_dora"],
            **resolve(model, adapter)))
    args = dict(output_dir=asked["folder"], optim=optim, use_cpu=True, report_to="none")
    optimizer = Trainer(model=model, args=TrainingArguments(**args)).create_optimizer()
    ids = torch.randint(0, 300, (1, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name not in ("step", "RMS", "qmap1", "qmap2"))

asked = json.load(sys.stdin)
json.dump({name: {optim: states(asked, adapter, optim) for optim in asked["optimizers"]}
           for name, adapter in asked["adapters"].items()}, sys.stdout)
"""


@pytest.fixture(scope="module")
def kept(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, int]]:
    asked = {
        "config": CONFIG,
        "folder": str(tmp_path_factory.mktemp("states")),
        "optimizers": sorted(OPTIMIZERS),
        "adapters": {name: adapter_data(adapter) for name, adapter in ADAPTERS.items()},
    }
    said = subprocess.run(
        [str(environment_python("native")), "-W", "ignore", "-c", STATES],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    found: dict[str, dict[str, int]] = json.loads(said.stdout.split("\n")[-1])
    return found


@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
@pytest.mark.parametrize("name", ADAPTERS)
def test_states_take_what_the_arithmetic_says(
    name: str, optim: str, kept: dict[str, dict[str, int]]
) -> None:
    tensors = trained_tensors(shapes_of(CONFIG), ADAPTERS[name])
    assert state_bytes(optim, tensors) == kept[name][optim]


# --- trained for real, every weight: the tiny model's tensors have 8192 numbers and fewer

CHANGED = ("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd")
WEIGHTS = "model/model.safetensors"


@pytest.fixture(scope="module")
def training(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ScriptRun]:
    folder = tmp_path_factory.mktemp("model")
    model = write_tiny_model(folder / "model")
    rows = [[document] for document in documents(9)]
    tokens = write_tokens(folder / "train.tokens.safetensors", rows, packed=False)

    def make(optim: str, save_steps: int = 1000) -> ScriptRun:
        changes: dict[str, Any] = {
            "optim": optim,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "has_prompts": False,
            "adapter": {"type": "none"},
        }
        return ScriptRun(
            environment_python("native"),
            "train_native",
            {"settings": SETTINGS | changes, "save_steps": save_steps, "canary": False},
            {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"},
            tmp_path_factory.mktemp("training"),
        )

    return make


@pytest.fixture(scope="module")
def trained(
    training: Callable[..., ScriptRun], warm: WarmInterpreter
) -> dict[str, dict[str, bytes]]:
    """Files of a training by each, uninterrupted."""
    optimizers = ("adamw_torch", *CHANGED)
    return {optim: done(training(optim).finish(warm)).files() for optim in optimizers}


def test_each_trains_in_its_own_way(trained: dict[str, dict[str, bytes]]) -> None:
    """On a processor nothing is paged: the paged one in 8 bits is the other one."""
    assert trained["paged_adamw_8bit"] == trained["adamw_8bit"]
    weights = {optim: files[WEIGHTS] for optim, files in trained.items()}
    assert len(set(weights.values())) == len(weights) - 1


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    optim: str,
    training: Callable[..., ScriptRun],
    trained: dict[str, dict[str, bytes]],
    warm: WarmInterpreter,
) -> None:
    run = training(optim, save_steps=1)
    process = run.start(warm)
    run.wait_for_step(process, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = done(run.finish(warm))
    assert resumed.measures()["steps_trained_now"] <= 2
    assert resumed.files() == trained[optim]
