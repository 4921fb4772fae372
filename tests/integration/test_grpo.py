"""Learning from rewards by the native backend, on a tiny model: prepare, train, evaluate."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from runner.recipe.methods import METHODS
from tests.script_runs import PREPARING, run_script
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS,
    Finished,
    ScriptRun,
    WarmInterpreter,
    chat,
    done,
    trace,
)

LORA = {
    "type": "lora",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
LETTER = {"name": "matches", "weight": 1.0, "pattern": r"(?s).*[a-z].*"}
NEVER = {"name": "exact-answer", "weight": 1.0}
ROWS = [{"prompt": f"Q{n}", "answer": f"the answer {n}"} for n in range(50)]
ADAPTER = "adapter/adapter_model.safetensors"
Trainer = Callable[..., ScriptRun]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@dataclass(frozen=True)
class Prepared:
    """Where the prompts lie, and what was told of them."""

    folder: Path
    measures: dict[str, Any]


@pytest.fixture(scope="module")
def prepared(
    environment_python: Callable[[str], Path], model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """The prompts of ROWS as `prepare` leaves them: 10 to learn from, 40 held out."""
    place = tmp_path_factory.mktemp("prepared")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    described = {"name": "rows.jsonl", "format": "prompt", "input": "train-0"}
    more = {"train": [described], "fraction": 0.8, "reads": ["text"], "max_completion_length": 8}
    result = run_script(
        environment_python("data"),
        "prepare_prompts",
        PREPARING | more,
        {"model": model, "train-0": place / "rows.jsonl"},
        place / "run",
    )
    return Prepared(result.folder, result.measures)


@pytest.fixture(scope="module")
def trainer(
    environment_python: Callable[[str], Path],
    model: Path,
    prepared: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainer:
    """Make a training on the prepared prompts; keywords replace settings."""

    def make(
        *,
        save_steps: int = 1000,
        signal_required: bool = True,
        tokens: Any = None,
        canary: bool = True,
        **more: Any,
    ) -> ScriptRun:
        settings = SETTINGS | {
            "method": "grpo",
            "max_steps": 5,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "adapter": LORA,
            **METHODS["grpo"].settings,
            "max_completion_length": 8,
            "rewards": [LETTER],
            **more,
        }
        return ScriptRun(
            environment_python("native"),
            "train_grpo_native",
            {
                "settings": settings,
                "save_steps": save_steps,
                "signal_required": signal_required,
                "canary": canary,
            },
            {
                "model": model,
                "tokens": tokens or prepared.folder / "train.tokens.safetensors",
                "template": prepared.folder / "chat_template.jinja",
            },
            tmp_path_factory.mktemp("training") / "run",
        )

    return make


@pytest.fixture(scope="module")
def usual(trainer: Trainer, warm: WarmInterpreter) -> Finished:
    """A short training, without a checkpoint before its end."""
    return done(trainer().finish(warm))


def test_a_prompt_is_what_stands_before_an_answer(prepared: Prepared) -> None:
    tensors = load_file(prepared.folder / "train.tokens.safetensors")
    begin, end = tensors["offsets"][:2]
    text = bytes(tensors["answers"][slice(*tensors["answer_offsets"][:2])]).decode()
    number = text.removeprefix("the answer ")
    head, _ = chat(("user", f"Q{number}"))
    assert tensors["input_ids"][begin:end].tolist() == [*head, 1, *(3 + b for b in b"assistant\n")]
    assert not tensors["labels_mask"].any()
    assert (prepared.measures["train"]["rows"], prepared.measures["validation"]["rows"]) == (10, 40)


def test_the_chain_learns_what_is_rewarded(
    trainer: Trainer,
    warm: WarmInterpreter,
    prepared: Prepared,
    model: Path,
    environment_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Answers with a small letter earn more: base and tuned model are held against each other."""
    result = done(trainer(max_steps=24, per_device_train_batch_size=16).finish(warm))
    lines = trace(result)
    assert lines[-1]["reward"] > lines[0]["reward"] + 0.2
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["kl"] > 0.01
    assert all(0 <= line["frac_reward_zero_std"] <= 1 for line in lines)
    assert lines[0]["rewards/matches/mean"] == lines[0]["reward"]
    last = [event for event in result.events if event["event"] == "progress"][-1]
    shown = ("reward", "mean_length", "matches")
    kept = ("reward", "completions/mean_length", "rewards/matches/mean")
    assert [last[name] for name in shown] == [lines[-1][name] for name in kept]
    evaluated = done(
        ScriptRun(
            environment_python("native"),
            "evaluate_rewards",
            {
                "loss": True,
                "samples": 1,
                "max_new_tokens": 8,
                "questions": None,
                "forgetting": True,
                "trained": "adapter",
                "system": None,
                "dtype": "float32",
                "attn_implementation": "sdpa",
                "rewards": [LETTER],
                "max_completion_length": 8,
            },
            {
                "model": model,
                "trained": result.folder / "adapter",
                "tokens": prepared.folder / "validation.tokens.safetensors",
                "prompts": prepared.folder / "prompts.jsonl",
                "template": prepared.folder / "chat_template.jinja",
            },
            tmp_path / "evaluate",
        ).finish(warm)
    )
    found = evaluated.measures()
    assert found["prompts"] == found["validation_rows"] == 40
    assert not found["few_prompts"]
    assert found["reward_change"] == pytest.approx(found["reward_tuned"] - found["reward_base"])
    assert found["reward_change_low"] <= found["reward_change"] <= found["reward_change_high"]
    assert found["reward_change_low"] > 0
    assert found["rewards"]["matches"]["reward_tuned"] == found["reward_tuned"]
    for end, name in (("", "value"), ("_low", "low"), ("_high", "high")):
        assert found["examples"]["reward"]["tuned"][name] == found[f"reward_tuned{end}"]
    answers = evaluated.files()["examples.jsonl"].decode().splitlines()
    assert sum('"kind": "reward"' in line for line in answers) == 40


def test_two_trainings_draw_the_same_answers_and_give_the_same_bytes(
    usual: Finished, trainer: Trainer
) -> None:
    again = done(trainer().finish_cold(LC_ALL="C", TZ="Asia/Tokyo"))
    assert sorted(again.files()) == ["adapter/adapter_config.json", ADAPTER, "trace.jsonl"]
    assert again.files() == usual.files()


def test_no_byte_depends_on_whether_the_base_was_looked_at(
    usual: Finished, trainer: Trainer, warm: WarmInterpreter
) -> None:
    not_looked = done(trainer(canary=False).finish(warm))
    assert not_looked.files() == usual.files()
    assert usual.measures()["canary"]["base"] == "small"
    assert usual.measures()["canary"]["seconds_left"] > 0
    assert "canary" not in not_looked.measures()


def test_another_seed_draws_others(
    usual: Finished, trainer: Trainer, warm: WarmInterpreter
) -> None:
    other = done(trainer(seed=2).finish(warm))
    assert other.files()["trace.jsonl"] != usual.files()["trace.jsonl"]


def test_a_killed_training_goes_on_to_the_same_bytes(
    usual: Finished, trainer: Trainer, warm: WarmInterpreter
) -> None:
    run = trainer(save_steps=1)
    process = run.start(warm)
    run.wait_for_step(process, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = done(run.finish(warm))
    assert resumed.measures()["steps_trained_now"] <= 3
    assert resumed.files() == usual.files()


def test_every_weight_can_learn(trainer: Trainer, warm: WarmInterpreter) -> None:
    """Against a frozen copy of the model, and with passes over the prompts in place of steps."""
    run = trainer(
        adapter={"type": "none"}, learning_rate=1e-3, max_steps=None, num_train_epochs=1.0
    )
    result = done(run.finish(warm))
    lines = trace(result)
    assert len(lines) == 5  # 10 prompts, 2 a step
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["kl"] > 0
    assert "model/model.safetensors" in result.files()


# --- what is refused


def test_answers_that_all_earn_the_same_end_the_training(
    trainer: Trainer, warm: WarmInterpreter
) -> None:
    error = trainer(rewards=[NEVER]).finish(warm).error()
    assert error["code"] == "E537"
    assert "in none of 5 steps" in error["message"]
    assert "mean reward 0 to 0" in error["message"]
    assert done(trainer(rewards=[NEVER], signal_required=False).finish(warm)).measures()["steps"]


def test_a_training_that_runs_away_is_ended(trainer: Trainer, warm: WarmInterpreter) -> None:
    error = trainer(learning_rate=1e30).finish(warm).error()
    assert error["code"] == "E517"


def test_damaged_prompts_are_refused(
    trainer: Trainer, warm: WarmInterpreter, prepared: Prepared, tmp_path: Path
) -> None:
    tensors = load_file(prepared.folder / "train.tokens.safetensors")
    del tensors["answered"]
    save_file(tensors, tmp_path / "t.safetensors")
    error = trainer(tokens=tmp_path / "t.safetensors").finish(warm).error()
    assert error["code"] == "E528"
