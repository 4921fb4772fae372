"""LLaMA Factory learns from preferences what the native backend does, to the same bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.crosscheck.compare import tokens_sha256
from runner.recipe.load import load_recipe
from runner.recipe.methods import METHODS
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    WEIGHTS,
    ScriptRun,
    WarmInterpreter,
    answers,
    assert_alike,
    changed_recipe,
    done,
    trace,
    training_of,
    write_preferences,
)

BASE: dict[str, Any] = {
    "schema": 1,
    "name": "both",
    "seed": 42,
    "model": {"path": "model", "dtype": "float32"},
    "data": {"max_length": 256},
    "train": {
        "method": "dpo",
        "adapter": {"type": "lora", "r": 4, "lora_alpha": 8},
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
    },
}
ROWS = answers(9)
# name -> what differs from BASE, by section
MATRIX: dict[str, dict[str, Any]] = {
    "dpo": {},
    "conservative": {"train": {"label_smoothing": 0.1}},
    "orpo": {"train": {"method": "orpo"}},
    "simpo": {"train": {"method": "simpo"}},
    "kto": {"train": {"method": "kto", "desirable_weight": 1.5}},
    "one pair a batch": {
        "train": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    },
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "epochs": {"train": {"max_steps": None, "num_train_epochs": 1}},
    "bf16 autocast": {"train": {"bf16": True, "max_steps": 2}},
    "bfloat16 weights": {"model": {"dtype": "bfloat16"}},
    "4 bits": {
        "model": {"dtype": "bfloat16", "quantization": {"load_in_4bit": True}},
        "train": {"bf16": True, "max_steps": 2},
    },
    "DoRA": {"train": {"adapter": {"type": "lora", "r": 4, "use_dora": True}}},
    "last layer": {"train": {"adapter": {"type": "none", "trainable_layers": 1}}},
    "every weight": {"train": {"adapter": {"type": "none"}, "learning_rate": 1e-4}},
    "every weight, kto": {
        "train": {"method": "kto", "adapter": {"type": "none"}, "learning_rate": 1e-4}
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
        script: str | None = None,
        **told: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp(backend)
        recipe = load_recipe(write_recipe(place, model, backend, changes))
        tokens = write_preferences(place / "train.tokens.safetensors", ROWS)
        return training_of(
            recipe,
            environment_python,
            {"model": model, "tokens": tokens},
            place / "run",
            save_steps=save_steps,
            script=script,
            told=told,
        )

    return make


def write_recipe(place: Path, model: Path, backend: str, changes: dict[str, Any]) -> Path:
    sections = changed_recipe(BASE, model, backend, changes)
    # only its format is looked at here: the tokens are made by the tests
    (kind,) = METHODS[sections["train"]["method"]].formats
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "completion": "a", "label": True}
    (place / "rows.jsonl").write_text(json.dumps(row) + "\n")
    sections["data"] = {**sections["data"], "train": [{"path": "rows.jsonl", "format": kind}]}
    (place / "both.yaml").write_text(yaml.safe_dump(sections))
    return place / "both.yaml"


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


def test_llamafactory_computes_the_sigmoid_loss_whatever_it_is_told(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    """Why `validate` refuses the other ones. When this fails, LLaMA Factory has mended it."""
    usual = done(training("llamafactory", {}).finish(warm_factory))
    told = done(training("llamafactory", {}, pref_loss="hinge").finish(warm_factory))
    assert trace(told) == trace(usual)


@pytest.mark.parametrize("case", ["dpo", "kto"])
def test_the_command_line_of_llamafactory_gives_the_same_weights(
    case: str, training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    script = done(training("llamafactory", MATRIX[case]).finish(warm_factory))
    run = training("llamafactory", MATRIX[case], script="train_by_cli")
    result = done(run.finish(warm_factory))
    assert result.files()[WEIGHTS["lora"]] == script.files()[WEIGHTS["lora"]]
    assert [step["loss"] for step in trace(result)] == [
        round(step["loss"], 4) for step in trace(script)
    ]
    assert result.measures()["tokens_sha256"] == tokens_sha256(
        run.folder.parents[1] / "train.tokens.safetensors"
    )


@pytest.mark.parametrize("case", ["dpo", "kto"])
def test_the_web_ui_is_given_what_a_training_is_given(
    case: str, training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    train = training("llamafactory", MATRIX[case])
    done(train.finish(warm_factory))
    shown = training("llamafactory", MATRIX[case], script="webui_inputs")
    done(shown.finish(warm_factory))
    for name in ("dataset_info.json", "data-00000-of-00001.arrow"):
        ours, theirs = (run.scratch / "workspace" / "tokens" / name for run in (shown, train))
        assert ours.read_bytes() == theirs.read_bytes()
    told = json.loads((shown.scratch / "configuration.json").read_text())
    assert told["stage"] == case


@pytest.mark.parametrize("case", ["dpo", "orpo", "simpo", "kto"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    case: str, training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    whole = done(training("llamafactory", MATRIX[case]).finish(warm_factory))
    run = training("llamafactory", MATRIX[case], save_steps=1)
    process = run.start(warm_factory)
    run.wait_for_step(process, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = done(run.finish(warm_factory))
    assert resumed.measures()["steps_trained_now"] <= 3
    assert resumed.files() == whole.files()
