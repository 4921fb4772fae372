"""LLaMA Factory trains what a recipe says: the bytes of the native backend, or it is refused."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from runner.capture.keys import CANNOT, DEFAULTS, MAPPED, NO_EFFECT
from runner.recipe.load import load_recipe
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    WEIGHTS,
    ScriptRun,
    WarmInterpreter,
    assert_alike,
    changed_recipe,
    chat,
    documents,
    done,
    training_of,
    write_tokens,
)

BASE: dict[str, Any] = {
    "schema": 1,
    "name": "both",
    "seed": 42,
    "model": {"path": "model", "dtype": "float32"},
    # only its format is looked at here: the tokens are made below
    "data": {"train": [{"path": "rows.jsonl", "format": "text"}], "max_length": 256},
    "train": {
        "adapter": {"type": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05},
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "weight_decay": 0.01,
    },
}
ROWS = [[document] for document in documents(9)]
PACKS = [documents(3, seed=seed) for seed in range(9)]
TURNS = [
    [chat(("user", f"Say {n}."), ("assistant", f"{n}."), ("user", "Why?"), ("assistant", "So."))]
    for n in range(9)
]
# name -> what differs from BASE, by section
MATRIX: dict[str, dict[str, Any]] = {
    "plain": {"train": {"adapter": {"type": "lora", "r": 4, "lora_alpha": 8}}},
    "dropout": {},
    "accumulation": {"train": {"gradient_accumulation_steps": 2}},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "epochs": {"train": {"max_steps": None, "num_train_epochs": 1}},
    "fused optimizer": {"train": {"optim": "adamw_torch_fused"}},
    "AdamW in 8 bits": {"train": {"optim": "adamw_8bit", "adapter": {"type": "lora", "r": 64}}},
    "Adafactor": {"train": {"optim": "adafactor"}},
    "SGD": {"train": {"optim": "sgd", "learning_rate": 0.1}},
    "named layers": {
        "train": {"adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj", "up_proj"]}}
    },
    "all attention": {"train": {"adapter": {"type": "lora", "target_modules": "all-attention"}}},
    "DoRA": {"train": {"adapter": {"type": "lora", "r": 4, "use_dora": True}}},
    "rsLoRA": {"train": {"adapter": {"type": "lora", "r": 4, "use_rslora": True}}},
    "bfloat16 weights": {"model": {"dtype": "bfloat16"}},
    "bf16 autocast": {"train": {"bf16": True, "max_steps": 2}},
    "4 bits": {
        "model": {"dtype": "bfloat16", "quantization": {"load_in_4bit": True}},
        "train": {"bf16": True, "max_steps": 2},
    },
    "eager attention": {"model": {"attn_implementation": "eager"}},
    "several turns": {"data": {"train": [{"path": "rows.jsonl", "format": "messages"}]}},
    "packs": {"data": {"packing": True}},
    "every weight": {"train": {"adapter": {"type": "none"}, "learning_rate": 1e-4}},
    "last layers": {"train": {"adapter": {"type": "none", "trainable_layers": 1}}},
    "first layers' mlp": {
        "train": {
            "adapter": {"type": "none", "trainable_layers": -1, "trainable_modules": ["mlp"]},
            "gradient_checkpointing": True,
        }
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def training(
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., ScriptRun]:
    """A training of BASE with changes by a backend, from a recipe's file on."""

    def make(
        backend: str,
        changes: dict[str, Any],
        *,
        save_steps: int = 1000,
        base: Path = model,
        **more: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp(backend)
        recipe = load_recipe(write_recipe(place, base, backend, changes))
        packed = recipe.data.packing
        rows = PACKS if packed else TURNS if recipe.data.train[0].format == "messages" else ROWS
        tokens = write_tokens(place / "train.tokens.safetensors", rows, packed=packed)
        return training_of(
            recipe,
            environment_python,
            {"model": base, "tokens": tokens},
            place / "run",
            save_steps=save_steps,
            **more,
        )

    return make


def write_recipe(place: Path, model: Path, backend: str, changes: dict[str, Any]) -> Path:
    sections = changed_recipe(BASE, model, backend, changes)
    chat_row = {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    }
    (place / "rows.jsonl").write_text(json.dumps({"text": "x", **chat_row}) + "\n")
    (place / "both.yaml").write_text(yaml.safe_dump(sections))
    return place / "both.yaml"


# --- equal bytes


@pytest.mark.parametrize("case", MATRIX)
def test_both_backends_give_the_same_weights_step_by_step(
    case: str,
    training: Callable[..., ScriptRun],
    warm: WarmInterpreter,
    warm_factory: WarmInterpreter,
) -> None:
    ours = done(training("native", MATRIX[case]).finish(warm))
    theirs = done(training("llamafactory", MATRIX[case]).finish(warm_factory))
    assert_alike(ours, theirs, MATRIX[case])


def test_cases_that_must_differ_do(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    """Or equal bytes above could mean that a setting reaches neither of them."""
    different = ("plain", "dropout", "accumulation", "named layers", "all attention", "DoRA")
    different += ("rsLoRA", "bfloat16 weights", "bf16 autocast", "several turns", "packs")
    weights = {
        case: done(training("llamafactory", MATRIX[case]).finish(warm_factory)).files()[
            WEIGHTS["lora"]
        ]
        for case in different
    }
    assert len(set(weights.values())) == len(different)


def test_the_command_line_of_llamafactory_gives_the_same_weights(
    training: Callable[..., ScriptRun], environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """The configuration that the script leaves behind, given to `llamafactory-cli train`."""
    run = training("llamafactory", MATRIX["dropout"])
    result = done(run.finish_cold())
    configuration = yaml.safe_load((run.scratch / "configuration.yaml").read_text())
    configuration |= {"output_dir": str(tmp_path / "saves"), "resume_from_checkpoint": None}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(configuration))
    command = environment_python("llamafactory").with_name("llamafactory-cli")
    said = subprocess.run(
        [str(command), "train", str(tmp_path / "train.yaml")],
        env=run.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    weights = (tmp_path / "saves" / "adapter_model.safetensors").read_bytes()
    assert weights == result.files()[WEIGHTS["lora"]]


# --- resume


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packs"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bytes(
    step: int, packed: bool, training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    case = {"data": {"packing": packed}}
    whole = done(training("llamafactory", case).finish(warm_factory))
    run = training("llamafactory", case, save_steps=1)
    process = run.start(warm_factory)
    run.wait_for_step(process, step + 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = done(run.finish(warm_factory))
    assert resumed.measures()["steps_trained_now"] <= 4 - step
    assert resumed.files() == whole.files()


def test_a_training_that_is_asked_to_stop_ends_behind_its_step(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    case = {"train": {"max_steps": 40}}
    whole = done(training("llamafactory", case).finish(warm_factory))
    run = training("llamafactory", case)
    process = run.start(warm_factory)
    run.wait_for_step(process, 2)
    (run.scratch / "stop").touch()
    process.wait()
    (said,) = [event for event in run.events() if event["event"] == "error"]
    assert said["code"] == "E130"
    assert re.match(r"stopped behind step \d+ of 40, as asked", said["message"])
    resumed = done(run.finish(warm_factory))
    assert 0 < resumed.measures()["steps_trained_now"] < 38
    assert resumed.files() == whole.files()


def test_a_finished_training_is_written_again_without_a_step(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    run = training("llamafactory", {}, save_steps=2)
    first = done(run.finish(warm_factory)).files()
    (run.folder / WEIGHTS["lora"]).unlink()
    again = done(run.finish(warm_factory))
    assert again.measures()["steps_trained_now"] == 0
    assert again.files() == first


# --- what is refused


def refused(run: ScriptRun, interpreter: WarmInterpreter) -> dict[str, Any]:
    result = run.finish(interpreter)
    assert result.status == 1, result.log
    assert not result.files()
    return result.error()


def test_what_llamafactory_refuses_is_said_in_its_words(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    good = training("llamafactory", {})
    settings = json.loads((good.folder.parent / "spec.json").read_text())["hashed"]["settings"]
    wrong = {**settings["configuration"], "quantization_bit": 4, "pissa_init": True}
    error = refused(training("llamafactory", {}, configuration=wrong), warm_factory)
    assert error["code"] == "E523"
    assert "LLaMA Factory refuses: Please use scripts/pissa_init.py" in error["message"]
    assert "configuration.yaml" in error["hint"]


def test_an_adapter_on_other_layers_than_the_recipe_says_is_no_success(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    wanted = {"type": "lora", "r": 4, "target_modules": "all-linear", "use_dora": True}
    result = training("llamafactory", {}, adapter=wanted).finish(warm_factory)
    assert result.status == 1
    assert result.error()["code"] == "E524"
    assert "it lacks base_model.model.model.layers.0" in result.error()["message"]


def test_a_misspelt_layer_costs_no_training(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    # What `validate` says of a model it can read (E244) is said here of one that came from a hub.
    wanted = {"type": "lora", "r": 4, "target_modules": ["q_prj"]}
    error = refused(training("llamafactory", {}, adapter=wanted), warm_factory)
    assert error["code"] == "E516"
    assert "did you mean q_proj?" in error["hint"]


def test_a_loss_that_is_not_finite_ends_the_training(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter, tmp_path: Path
) -> None:
    broken = write_tiny_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = np.inf
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    error = refused(training("llamafactory", {}, base=broken), warm_factory)
    assert error["code"] == "E945"  # before the first step
    not_looked = {"train": {"canary": False}}
    error = refused(training("llamafactory", not_looked, base=broken), warm_factory)
    assert (error["code"], "at step 1" in error["message"]) == ("E517", True)


# --- its settings, as `recipe capture` knows them

FIELDS = """
import dataclasses, enum, json
from llamafactory import hparams
classes = ("Model", "Data", "Finetuning", "Generating", "Training")
found = {}
for name in classes:
    for field in dataclasses.fields(getattr(hparams, f"{name}Arguments")):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.init:
            missing = default is dataclasses.MISSING
            value = default.value if isinstance(default, enum.Enum) else default
            found[field.name] = None if missing else value
print(json.dumps(found))
"""


def test_the_tables_of_capture_are_llamafactorys_own(
    environment_python: Callable[[str], Path],
) -> None:
    said = subprocess.run(
        [str(environment_python("llamafactory")), "-c", FIELDS],
        capture_output=True,
        text=True,
        check=True,
    )
    fields = json.loads(said.stdout.split("\n")[-2])
    cannot = {name: usual for table in CANNOT.values() for name, usual in table.items()}
    assert MAPPED | NO_EFFECT | set(cannot) == set(fields)
    assert {name: fields[name] for name in cannot} == cannot
    assert {name: fields[name] for name in DEFAULTS} == DEFAULTS
