"""PPO by the native backend, on a tiny model: the score it is trained for grows, equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.methods import METHODS
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS,
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
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
ADAPTER = "adapter/adapter_model.safetensors"
Trainer = Callable[..., ScriptRun]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def scorer(
    environment_python: Callable[[str], Path], model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter that scores small letters above capitals."""
    place = tmp_path_factory.mktemp("scorer")
    settings = SETTINGS | {
        "method": "reward",
        "max_steps": 30,
        "per_device_train_batch_size": 4,
        "adapter": LORA,
        **METHODS["reward"].settings,
    }
    tokens = write_preferences(place / "train.tokens.safetensors", answers(24))
    result = ScriptRun(
        environment_python("ppo"),
        "train_preference_native",
        {"settings": settings, "save_steps": 1000},
        {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"},
        place / "run",
    ).finish_cold()
    return done(result).folder / "adapter"


@pytest.fixture(scope="module")
def trainer(
    environment_python: Callable[[str], Path],
    model: Path,
    scorer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainer:
    def make(**more: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("training")
        settings = SETTINGS | {
            "method": "ppo",
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.003,
            "adapter": LORA,
            **METHODS["ppo"].settings,
            "response_length": 8,
            "temperature": 1.0,
            **more,
        }
        rows = [[chat(("user", f"Q{n}"), ("assistant", "a"))] for n in range(16)]
        rows = [[(ids[:-1], mask[:-1])] for [(ids, mask)] in rows]
        return ScriptRun(
            environment_python("ppo"),
            "train_ppo",
            {"settings": settings},
            {
                "model": model,
                "tokens": write_tokens(place / "train.tokens.safetensors", rows, packed=False),
                "template": model / "chat_template.jinja",
                "reward_model": model,
                "reward_adapter": scorer,
            },
            place / "run",
        )

    return make


def test_the_score_that_is_trained_for_grows(trainer: Trainer) -> None:
    result = done(trainer(max_steps=24).finish_cold())
    lines = trace(result)
    for line in lines:
        print(json.dumps({k: v for k, v in line.items() if k != "weights"}))
    print(result.measures())
    first = sum(line["objective/scores"] for line in lines[:4]) / 4
    last = sum(line["objective/scores"] for line in lines[-4:]) / 4
    assert last > first + 0.5
