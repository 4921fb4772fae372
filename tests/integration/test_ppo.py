"""PPO by the native backend, on a tiny model: the score it is trained for grows, equal bytes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.recipe.methods import METHODS
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS,
    Finished,
    ScriptRun,
    WarmInterpreter,
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
EVERY: dict[str, Any] = {"adapter": {"type": "none"}, "learning_rate": 1e-3, "max_steps": 5}
STEPS = 24
Trainer = Callable[..., ScriptRun]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def scorer(
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    warm_ppo: WarmInterpreter,
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
    ).finish(warm_ppo)
    return done(result).folder / "adapter"


@pytest.fixture(scope="module")
def trainer(
    environment_python: Callable[[str], Path],
    model: Path,
    scorer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainer:
    """Make a training; keywords replace settings, `reward` the inputs of the reward model."""

    def make(
        *,
        reward: dict[str, Path] | None = None,
        save_steps: int = 1000,
        kept: int = 2,
        canary: bool = True,
        **more: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp("training")
        settings = SETTINGS | {
            "method": "ppo",
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.003,
            "adapter": LORA,
            **METHODS["ppo"].settings,
            "num_ppo_epochs": 4,
            "response_length": 8,
            "temperature": 1.0,
            **more,
        }
        tokens = prompts(place / "train.tokens.safetensors", 16)
        return ScriptRun(
            environment_python("ppo"),
            "train_ppo",
            {
                "settings": settings,
                "save_steps": save_steps,
                "save_total_limit": kept,
                "canary": canary,
            },
            {
                "model": model,
                "tokens": tokens,
                "template": model / "chat_template.jinja",
                **(reward or {"reward_model": model, "reward_adapter": scorer}),
            },
            place / "run",
        )

    return make


def prompts(path: Path, count: int) -> Path:
    """Rows of a question and an answer that no one learns; one question is longer than others."""
    rows = []
    for number in range(count):
        question = f"Q{number}" + "?" * 20 * (number == 3)
        ids, mask = chat(("user", question), ("assistant", "a"))
        rows.append([(ids[:-1], mask[:-1])])
    return write_tokens(path, rows, packed=False)


@pytest.fixture(scope="module")
def usual(trainer: Trainer, warm_ppo: WarmInterpreter) -> Finished:
    """A training as it is, without a checkpoint before its end."""
    return done(trainer().finish(warm_ppo))


@pytest.fixture(scope="module")
def of_every_weight(trainer: Trainer, warm_ppo: WarmInterpreter) -> Finished:
    """The same without an adapter, and short."""
    return done(trainer(**EVERY).finish(warm_ppo))


def test_the_score_that_is_trained_for_grows(usual: Finished) -> None:
    lines = trace(usual)
    scores = [line["objective/scores"] for line in lines]
    assert np.mean(scores[-8:]) > np.mean(scores[:8]) + 0.5
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-5)  # is its own reference yet
    assert lines[-1]["objective/kl"] > 0.1
    # prompts of another batch, which may be longer ones, are no part of them
    assert all(0 < line["answers/length"] <= 8 for line in lines)
    events = [event for event in usual.events if event["event"] == "progress"]
    assert [event["step"] for event in events] == [*range(1, STEPS + 1)]
    assert {"scores", "kl", "entropy", "policy", "value", "length"} <= events[-1].keys()
    assert usual.measures()["scores_last_step"] == scores[-1]
    assert isinstance(usual.measures()["reward_hacking_signs"], list)


def test_no_byte_depends_on_whether_the_base_was_looked_at(
    of_every_weight: Finished, trainer: Trainer, warm_ppo: WarmInterpreter
) -> None:
    not_looked = done(trainer(canary=False, **EVERY).finish(warm_ppo))
    assert not_looked.files() == of_every_weight.files()
    assert of_every_weight.measures()["canary"]["base"] == "small"
    assert of_every_weight.measures()["canary"]["seconds_left"] > 0
    assert "canary" not in not_looked.measures()


# --- killed, stopped, damaged


def checkpoints(run: ScriptRun) -> dict[int, Path]:
    """Of a run's scratch folder, by step."""
    found = run.scratch.glob("checkpoints/checkpoint-*")
    return {int(path.name.rpartition("-")[2]): path for path in sorted(found)}


@pytest.mark.parametrize(
    ("expected", "settings"), [("usual", {}), ("of_every_weight", EVERY)], ids=["lora", "none"]
)
def test_a_killed_training_goes_on_to_the_same_bytes(
    expected: str,
    settings: dict[str, Any],
    trainer: Trainer,
    warm_ppo: WarmInterpreter,
    request: pytest.FixtureRequest,
) -> None:
    whole: Finished = request.getfixturevalue(expected)
    run = trainer(save_steps=1, **settings)
    process = run.start(warm_ppo)
    run.wait_for_step(process, 3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = done(run.finish(warm_ppo))
    assert resumed.measures()["steps_trained_now"] <= len(trace(whole)) - 2
    assert resumed.files() == whole.files()


@pytest.mark.parametrize("settings", [{"max_steps": 5}, EVERY], ids=["lora", "none"])
def test_it_goes_on_from_any_batch(
    settings: dict[str, Any], trainer: Trainer, warm_ppo: WarmInterpreter
) -> None:
    """From within a pass over the prompts, from the end of one, and from the end of all."""
    run = trainer(save_steps=1, kept=99, **settings)
    whole = done(run.finish(warm_ppo)).files()
    assert [*checkpoints(run)] == [1, 2, 3, 4, 5]
    for step in (5, 2, 1):
        for later, path in checkpoints(run).items():
            if later > step:
                shutil.rmtree(path)
        shutil.rmtree(run.folder)
        run.folder.mkdir()
        again = done(run.finish(warm_ppo))
        assert again.measures()["steps_trained_now"] == 5 - step
        assert again.files() == whole


def test_a_training_that_is_asked_to_stop_leaves_a_checkpoint(
    usual: Finished, trainer: Trainer, warm_ppo: WarmInterpreter
) -> None:
    run = trainer()
    process = run.start(warm_ppo)
    run.wait_for_step(process, 1)
    (run.scratch / "stop").touch()
    assert process.wait() == 1
    error = run.result(1).error()
    assert error["code"] == "E130"
    (step,) = checkpoints(run)
    assert f"stopped behind step {step} of {STEPS}, as asked, with a checkpoint" in error["message"]
    resumed = done(run.finish(warm_ppo))
    assert resumed.measures()["steps_trained_now"] == STEPS - step
    assert resumed.files() == usual.files()


def test_damaged_checkpoints_are_passed_over(trainer: Trainer, warm_ppo: WarmInterpreter) -> None:
    run = trainer(save_steps=1, kept=99, max_steps=4)
    whole = done(run.finish(warm_ppo)).files()
    found = checkpoints(run)
    weights = found[4] / "trained.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1])
    (found[3] / "place.pt").unlink()
    again = done(run.finish(warm_ppo))
    assert again.measures()["steps_trained_now"] == 2
    assert again.files() == whole


def test_checkpoints_of_other_settings_are_removed(
    trainer: Trainer, warm_ppo: WarmInterpreter
) -> None:
    run = trainer(save_steps=1, max_steps=2)
    done(run.finish(warm_ppo))
    spec = json.loads(run.spec_file.read_text())
    spec["hashed"]["settings"]["kl_coef"] = 0.2
    run.spec_file.write_text(json.dumps(spec))
    assert done(run.finish(warm_ppo)).measures()["steps_trained_now"] == 2


_STEPS = """
import sys, torch
for path in sys.argv[1:]:
    state = torch.load(path, weights_only=True)["state"]
    print({int(each["step"]) for each in state.values()})
"""


def test_a_batch_is_learnt_from_by_one_step_a_time(
    trainer: Trainer, warm_ppo: WarmInterpreter, environment_python: Callable[[str], Path]
) -> None:
    """The second batch is the last of a pass over the prompts."""
    run = trainer(save_steps=1, max_steps=3, num_ppo_epochs=2)
    done(run.finish(warm_ppo))
    optimizers = [str(path / "optimizer.pt") for path in checkpoints(run).values()]
    argv = [str(environment_python("ppo")), "-c", _STEPS, *optimizers]
    counted = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert counted.stdout.splitlines() == ["{4}", "{6}"]  # of the newest two


def test_every_weight_learns_against_a_copy(of_every_weight: Finished, model: Path) -> None:
    assert trace(of_every_weight)[1]["objective/kl"] != 0
    tuned = load_file(of_every_weight.folder / "model" / "model.safetensors")
    before = load_file(model / "model.safetensors")
    assert tuned.keys() == before.keys()
    assert any((tuned[name] != before[name]).any() for name in before)


# --- what is refused


def test_a_model_of_words_is_no_reward_model(
    trainer: Trainer, warm_ppo: WarmInterpreter, model: Path
) -> None:
    error = trainer(reward={"reward_model": model}).finish(warm_ppo).error()
    assert error["code"] == "E534"
    assert "score.weight is not among its weights" in error["message"]


def test_a_reward_model_with_another_tokenizer_is_refused(
    trainer: Trainer, warm_ppo: WarmInterpreter, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other")
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_end|>", "<|done|>"))
    config = other / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|im_end|>", "<|done|>"))
    error = trainer(reward={"reward_model": other}).finish(warm_ppo).error()
    assert error["code"] == "E534"
    assert "another tokenizer" in error["message"]


def test_scores_that_are_no_numbers_end_the_training(
    trainer: Trainer, warm_ppo: WarmInterpreter, model: Path, scorer: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((scorer / "adapter_config.json").read_bytes())
    weights = load_file(scorer / "adapter_model.safetensors")
    (head,) = (name for name in weights if "score" in name)
    save_file(weights | {head: np.full_like(weights[head], np.nan)},
              broken / "adapter_model.safetensors")  # fmt: skip
    reward = {"reward_model": model, "reward_adapter": broken}
    error = trainer(reward=reward, max_steps=2).finish(warm_ppo).error()
    assert error["code"] == "E539"


def test_fewer_prompts_than_a_batch_has_are_refused(
    trainer: Trainer, warm_ppo: WarmInterpreter
) -> None:
    """TRL would wait for a whole batch for ever."""
    error = trainer(per_device_train_batch_size=16).finish(warm_ppo).error()
    assert error["code"] == "E358"
    assert "has 32 prompts, and there are 16" in error["message"]


def test_trl_reads_the_score_where_the_reward_model_was_trained_to_give_it(
    environment_python: Callable[[str], Path], model: Path, scorer: Path
) -> None:
    """One model, by TRL over a padded batch, and by Transformers over each answer alone."""
    script = Path(__file__).parent.parent / "ppo_reference.py"
    ran = subprocess.run(
        [str(environment_python("ppo")), str(script), str(model), str(scorer)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["trl"] == pytest.approx(found["transformers"], abs=1e-5)
    assert found["unchanged"] != pytest.approx(found["transformers"], abs=1e-2)


def test_held_out_answers_are_scored_before_and_after(
    usual: Finished,
    environment_python: Callable[[str], Path],
    model: Path,
    scorer: Path,
    tmp_path: Path,
    warm_ppo: WarmInterpreter,
) -> None:
    question = {"kind": "validation", "messages": [{"role": "user", "content": "Q"}], "ids": [1]}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(question) + "\n")
    result = done(
        ScriptRun(
            environment_python("ppo"),
            "evaluate_scores",
            {
                "loss": True,
                "samples": 1,
                "max_new_tokens": 4,
                "questions": None,
                "system": None,
                "dtype": "float32",
                "attn_implementation": "sdpa",
                "trained": "adapter",
                "metrics": False,
                "forgetting": False,
                "seed": 1,
                "response_length": 8,
                "temperature": 1.0,
            },
            {
                "model": model,
                "trained": usual.folder / "adapter",
                "tokens": prompts(tmp_path / "held-out.safetensors", 160),
                "prompts": tmp_path / "prompts.jsonl",
                "template": model / "chat_template.jinja",
                "reward_model": model,
                "reward_adapter": scorer,
            },
            tmp_path / "run",
        ).finish(warm_ppo)
    )
    found = result.measures()
    assert found["reward_prompts"] == 160
    assert not found["few_prompts"]
    assert found["reward_change"] == pytest.approx(found["reward_tuned"] - found["reward_base"])
    assert found["reward_change"] > 0
    assert found["reward_change_low"] < found["reward_change"] < found["reward_change_high"]
    assert found["answer_tokens_base"] <= 8
