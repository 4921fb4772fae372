"""Learning from preferences by the native backend, on a tiny model: what it learns, equal bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from runner.recipe.methods import METHODS
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS,
    Finished,
    ScriptRun,
    WarmInterpreter,
    answers,
    done,
    trace,
    write_preferences,
)

LORA = {
    "type": "lora",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
ROWS = answers(9)
# name -> settings; every loss of every method
CASES: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo"},
    "ipo": {"method": "dpo", "loss_type": "ipo", "beta": 0.5},
    "hinge": {"method": "dpo", "loss_type": "hinge"},
    "robust": {"method": "dpo", "loss_type": "robust", "label_smoothing": 0.1},
    "conservative": {"method": "dpo", "label_smoothing": 0.1},
    "orpo": {"method": "orpo"},
    "simpo": {"method": "simpo"},
    "kto": {"method": "kto"},
    "reward": {"method": "reward", "center_rewards_coefficient": 0.01},
}
ADAPTER = "adapter/adapter_model.safetensors"
Trainer = Callable[..., ScriptRun]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def trainer(
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainer:
    """Make a training of the tiny model by a case; keywords replace settings."""

    def make(case: str, rows: Any = ROWS, *, save_steps: int = 1000, **more: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("training")
        chosen = CASES[case] | more
        settings = SETTINGS | {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "adapter": LORA,
            **METHODS[chosen["method"]].settings,
            **chosen,
        }
        return ScriptRun(
            environment_python("native"),
            "train_preference_native",
            {"settings": settings, "save_steps": save_steps},
            {
                "model": model,
                "tokens": write_preferences(place / "train.tokens.safetensors", rows),
                "template": model / "chat_template.jinja",
            },
            place / "run",
        )

    return make


@pytest.fixture(scope="module")
def usual(trainer: Trainer, warm: WarmInterpreter) -> Callable[[str], Finished]:
    """The result of a case as it is, without a checkpoint before the end."""
    found: dict[str, Finished] = {}

    def result(case: str) -> Finished:
        if case not in found:
            found[case] = done(trainer(case).finish(warm))
        return found[case]

    return result


@pytest.mark.parametrize("case", CASES)
def test_a_method_learns_what_it_is_shown(
    case: str, trainer: Trainer, warm: WarmInterpreter
) -> None:
    """Small letters are better than capitals: the margin grows, and the loss falls."""
    result = done(trainer(case, max_steps=16).finish(warm))
    lines = trace(result)
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert margins[-1] > margins[0] + 0.02
    assert lines[-1]["loss"] < lines[0]["loss"]
    if CASES[case]["method"] in ("dpo", "kto"):  # nothing is learnt yet: the model is its reference
        assert margins[0] == 0
    if case != "kto":  # which has no pairs, and not in every step answers of both kinds
        assert lines[-1]["rewards/accuracies"] == 1
        assert margins[-1] == pytest.approx(
            lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"], abs=1e-5
        )
        last = [event for event in result.events if event["event"] == "progress"][-1]
        assert (last["margins"], last["accuracies"]) == (margins[-1], 1)
        assert result.measures()["margins_last_step"] == margins[-1]


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("dpo", {"beta": 0.3}),
        ("dpo", {"label_smoothing": 0.1}),
        ("simpo", {"simpo_gamma": 0.0}),
        ("kto", {"desirable_weight": 2.0}),
        ("kto", {"undesirable_weight": 2.0}),
        ("reward", {"center_rewards_coefficient": 0.5}),
    ],
)
def test_a_setting_of_a_method_changes_what_is_learnt(
    case: str,
    changes: dict[str, Any],
    usual: Callable[[str], Finished],
    trainer: Trainer,
    warm: WarmInterpreter,
) -> None:
    changed = done(trainer(case, **changes).finish(warm))
    assert changed.files()[ADAPTER] != usual(case).files()[ADAPTER]


def test_two_trainings_give_the_same_bytes(
    usual: Callable[[str], Finished], trainer: Trainer
) -> None:
    again = done(trainer("dpo").finish_cold(LC_ALL="C", TZ="Asia/Tokyo"))
    assert sorted(again.files()) == ["adapter/adapter_config.json", ADAPTER, "trace.jsonl"]
    assert again.files() == usual("dpo").files()


@pytest.mark.parametrize("case", ["dpo", "orpo", "simpo", "kto", "reward"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    case: str, usual: Callable[[str], Finished], trainer: Trainer, warm: WarmInterpreter
) -> None:
    run = trainer(case, save_steps=1)
    process = run.start(warm)
    run.wait_for_step(process, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = done(run.finish(warm))
    assert resumed.measures()["steps_trained_now"] <= 4
    assert resumed.files() == usual(case).files()


@pytest.mark.parametrize("case", ["dpo", "simpo", "reward"])
def test_every_weight_can_learn(case: str, trainer: Trainer, warm: WarmInterpreter) -> None:
    run = trainer(case, adapter={"type": "none"}, learning_rate=1e-3)
    result = done(run.finish(warm))
    lines = trace(result)
    assert lines[-1]["rewards/margins"] > lines[0]["rewards/margins"]
    weights = load_file(result.folder / "model" / "model.safetensors")
    assert ("score.weight" in weights) == (case == "reward")
    config = json.loads((result.folder / "model" / "config.json").read_text())
    kind = "SequenceClassification" if case == "reward" else "CausalLM"
    assert config["architectures"] == [f"LlamaFor{kind}"]
    assert done(run.finish(warm)).files() == result.files()


def test_a_reward_models_score_is_trained_and_kept(trainer: Trainer, warm: WarmInterpreter) -> None:
    result = done(trainer("reward").finish(warm))
    weights = load_file(result.folder / "adapter" / "adapter_model.safetensors")
    scores = [name for name in weights if name.endswith("score.weight")]
    assert len(scores) == 1
    assert weights[scores[0]].shape == (1, 64)
    assert not any("score" in name for name in weights if name not in scores)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("kto", {"gradient_checkpointing": True}),
        ("reward", {"dtype": "bfloat16", "bf16": True}),
    ],
)
def test_settings_of_the_training_go_with_it(
    case: str, changes: dict[str, Any], trainer: Trainer, warm: WarmInterpreter
) -> None:
    lines = trace(done(trainer(case, max_steps=8, **changes).finish(warm)))
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert margins[-1] > margins[0]


# --- what is refused


def test_rows_that_are_no_pairs_are_refused(trainer: Trainer, warm: WarmInterpreter) -> None:
    error = trainer("dpo", ROWS[1:]).finish(warm).error()
    assert (error["code"], "are not pairs" in error["message"]) == ("E525", True)
    shifted = [ROWS[0], ROWS[3], ROWS[2], ROWS[1]]
    error = trainer("dpo", shifted).finish(warm).error()
    assert (error["code"], "different prompts" in error["message"]) == ("E525", True)


def test_a_label_in_the_prompt_is_refused(trainer: Trainer, warm: WarmInterpreter) -> None:
    (ids, mask), good = ROWS[0]
    wrong = [((ids, [0, 0, 1, *mask[3:]]), good), *ROWS[1:]]
    error = trainer("dpo", wrong).finish(warm).error()
    assert error["code"] == "E515"


def test_a_margin_that_is_no_number_ends_the_training(
    trainer: Trainer, warm: WarmInterpreter
) -> None:
    error = trainer("dpo", learning_rate=1e30).finish(warm).error()
    assert error["code"] == "E517"
