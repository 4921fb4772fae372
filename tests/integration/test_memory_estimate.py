"""The arithmetic of runner/plan against the models themselves: on the meta device, and measured."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.plan.job import Job
from runner.plan.memory import training_memory
from runner.plan.shapes import UnknownShapesError, shapes_of
from runner.plan.trained import trained_parameters
from runner.recipe.model import Adapter
from tests.chain import ROOT

CONFIGS = sorted((ROOT / "runner" / "plan" / "data" / "published").glob("*-*.json"))
ADAPTER = Adapter(
    type="lora",
    r=16,
    lora_alpha=32,
    lora_dropout=0.0,
    use_dora=False,
    use_rslora=False,
    target_modules="all-linear",
    exclude_modules=(),
    modules_to_save=(),
    rank_pattern={},
    alpha_pattern={},
    lora_bias=False,
    trainable_layers=None,
    trainable_modules=(),
)
NONE = dataclasses.replace(ADAPTER, type="none", r=0, target_modules=())
JOB = Job(
    dtype="float32",
    quantization=None,
    attn_implementation="sdpa",
    adapter=ADAPTER,
    optim="adamw_torch",
    bf16=False,
    gradient_checkpointing=False,
    batch=2,
    accumulation=1,
    length=512,
    new_tokens=0,
    questions=0,
    loss=False,
)
ADAPTERS = {
    "plain": ADAPTER,
    "attention": dataclasses.replace(ADAPTER, target_modules="all-attention"),
    "dora": dataclasses.replace(ADAPTER, use_dora=True, r=4, target_modules=("o_proj",)),
    "regular expression": dataclasses.replace(
        ADAPTER, target_modules=r".*layers\.[01]\.mlp\..*_proj"
    ),
    "embedding": dataclasses.replace(ADAPTER, target_modules=("embed_tokens", "down_proj")),
    "without": dataclasses.replace(ADAPTER, exclude_modules=("down_proj",)),
    "by pattern": dataclasses.replace(ADAPTER, rank_pattern={"down_proj": 4}),
    "saved": dataclasses.replace(ADAPTER, modules_to_save=("lm_head", "embed_tokens")),
    "last layers": dataclasses.replace(NONE, trainable_layers=2),
    "first layer's mlp": dataclasses.replace(
        NONE, trainable_layers=-1, trainable_modules=("mlp", "post_attention_layernorm")
    ),
    "saved block": dataclasses.replace(ADAPTER, modules_to_save=("layers.0.mlp",)),
}

# How a model of the real library counts, without a weight in memory.
COUNT = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
from runner.scripts.training.adapter_targets import resolve

def model_of(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)

asked = json.load(sys.stdin)
found = {}
for name, text in asked["configs"].items():
    kind = text.pop("model_type")
    config = AutoConfig.for_model(kind, **text)
    model = model_of(config)
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    counts = {"all": sum(w.numel() for w in model.parameters()), "tied": tied}
    for label, adapter in asked["adapters"].items():
        config.num_hidden_layers = min(config.num_hidden_layers, 4)
        if hasattr(config, "layer_types") and config.layer_types:
            config.layer_types = config.layer_types[:config.num_hidden_layers]
        model = model_of(config)
        modules = resolve(model, adapter)
        if "weights" in modules:
            named = dict(model.named_parameters())
            learn = [named[name].numel() for name in modules["weights"]]
            counts[label] = sum(learn)
            continue
        with torch.device("meta"):
            tuned = get_peft_model(model, LoraConfig(
                task_type="CAUSAL_LM", r=adapter["r"], use_dora=adapter["use_dora"], **modules))
        learn = [w.numel() for w in tuned.parameters() if w.requires_grad]
        counts[label] = sum(learn)
    found[name] = counts
json.dump(found, sys.stdout)
"""


# Freed memory goes back at once, so that a peak is what was asked for at one time.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
}


def child(python: Path, code: str, given: Any) -> Any:
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **QUIET},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("\n")[-1])


def adapter_data(adapter: Adapter) -> dict[str, Any]:
    """As runner/backends/native.py hands it to the script."""
    data = dataclasses.asdict(adapter)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


@pytest.fixture(scope="module")
def counted(environment_python: Callable[[str], Path]) -> dict[str, dict[str, int]]:
    configs = {path.stem: json.loads(path.read_text()) for path in CONFIGS}
    adapters = {name: adapter_data(adapter) for name, adapter in ADAPTERS.items()}
    found: dict[str, dict[str, int]] = child(
        environment_python("native"), COUNT, {"configs": configs, "adapters": adapters}
    )
    return found


def test_there_are_configs() -> None:
    assert len(CONFIGS) == 14


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_weights_are_counted_as_the_meta_device_has_them(
    path: Path, counted: dict[str, dict[str, int]]
) -> None:
    shapes = shapes_of(json.loads(path.read_text()))
    assert shapes.parameters == counted[path.stem]["all"]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_adapter_is_counted_as_peft_makes_it(
    path: Path, name: str, counted: dict[str, dict[str, int]]
) -> None:
    config = json.loads(path.read_text())
    shapes = shapes_of({**config, "num_hidden_layers": min(4, config["num_hidden_layers"])})
    assert trained_parameters(shapes, ADAPTERS[name]) == counted[path.stem][name]


def test_another_family_is_not_guessed() -> None:
    with pytest.raises(UnknownShapesError, match="mamba"):
        shapes_of({"model_type": "mamba", "vocab_size": 10})
    with pytest.raises(UnknownShapesError, match="hidden_size"):
        shapes_of({"model_type": "llama", "vocab_size": 10})


# A real training; what the libraries take as soon as they are used is not counted.
TRAIN = """
import json, os, sys, torch
from pathlib import Path
from transformers import AutoConfig, AutoModelForCausalLM
from peft import LoraConfig, get_peft_model

def peak():
    # Not ru_maxrss: it survives exec, and so begins at the size of pytest.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

def train(asked, config, batch, length):
    torch.manual_seed(0)
    kind = config["model_type"]
    rest = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **rest))
    model.config.use_cache = False
    if asked["adapter"]["type"] == "lora":
        model = get_peft_model(model, LoraConfig(
            task_type="CAUSAL_LM", r=asked["adapter"]["r"], use_dora=asked["adapter"]["use_dora"],
            target_modules="all-linear"))
    if asked["gradient_checkpointing"]:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": True})
    model.train()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad])
    ids = torch.randint(0, config["vocab_size"], (batch, length))
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

def measure(asked):  # in a process of its own, since a peak never falls
    reader, writer = os.pipe()
    if os.fork() == 0:
        train(asked, {**asked["config"], "vocab_size": 64, "num_hidden_layers": 1}, 1, 8)
        before = peak()
        train(asked, asked["config"], asked["batch"], asked["length"])
        os.write(writer, json.dumps(peak() - before).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    with open(reader, "rb") as pipe:
        return json.load(pipe)

json.dump([measure(asked) for asked in json.load(sys.stdin)], sys.stdout)
"""
SMALL = {
    "model_type": "llama",
    "vocab_size": 8000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


CASES = [
    dataclasses.replace(JOB, adapter=adapter, gradient_checkpointing=checkpointing)
    for adapter in (ADAPTER, NONE, dataclasses.replace(ADAPTER, use_dora=True))
    for checkpointing in (False, True)
]


@pytest.fixture(scope="module")
def measured(environment_python: Callable[[str], Path]) -> list[int]:
    given = [
        {
            "config": SMALL,
            "adapter": adapter_data(job.adapter),
            "gradient_checkpointing": job.gradient_checkpointing,
            "batch": job.batch,
            "length": job.length,
        }
        for job in CASES
    ]
    found: list[int] = child(environment_python("native"), TRAIN, given)
    return found


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_real_training_takes_about_what_was_estimated(number: int, measured: list[int]) -> None:
    """Within a third: the kernels' own scratch memory is nobody's arithmetic."""
    estimated = training_memory(shapes_of(SMALL), CASES[number], "cpu")
    without_process = sum(item.bytes for item in estimated.items if item.name != "process")
    assert 2 / 3 < without_process / measured[number] < 4 / 3, (without_process, measured)
