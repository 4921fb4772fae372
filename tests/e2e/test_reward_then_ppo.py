"""PPO with the reward model of another recipe, by the real command line: one run makes both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout

REWARD = """
schema: 1
name: scores
model: {path: model, dtype: float32}
data:
  train: [{path: pairs.jsonl, format: preference}]
  max_length: 256
train:
  method: reward
  adapter: {type: lora, r: 4}
  max_steps: STEPS
  per_device_train_batch_size: 4
"""
PPO = """
schema: 1
name: ppo
model: {path: model, dtype: float32}
reward: {recipe: scores.yaml}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  validation: {fraction: 0.2}
  max_length: 256
train:
  method: ppo
  adapter: {type: lora, r: 4}
  max_steps: 2
  per_device_train_batch_size: 4
  num_ppo_epochs: 1
  response_length: 6
evaluate: {samples: 1, max_new_tokens: 4}
"""


@pytest.fixture(scope="module")
def checkout(
    make_tiny: Callable[[Path], Checkout], tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """scores.yaml, and ppo.yaml that was run."""
    made = make_tiny(tmp_path_factory.mktemp("ppo"))
    rows = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"BAD {n}"} for n in range(20)]
    (made.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    set_steps(made, 3)
    (made.folder / "ppo.yaml").write_text(PPO)
    done(made, "run", "ppo.yaml")
    return made


def set_steps(checkout: Checkout, steps: int) -> None:
    (checkout.folder / "scores.yaml").write_text(REWARD.replace("STEPS", str(steps)))


def done(checkout: Checkout, *arguments: str) -> str:
    result = checkout.recipe(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def latest(checkout: Checkout, name: str) -> Path:
    return (checkout.folder / "runs" / name / "latest").resolve()


def json_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_one_command_runs_both_and_copies_the_reward_model(checkout: Checkout) -> None:
    scores, ppo = (json_of(latest(checkout, name) / "run.json") for name in ("scores", "ppo"))
    assert [stage["name"] for stage in scores["stages"]] == ["fetch", "prepare", "train"]
    names = [stage["name"] for stage in ppo["stages"]]
    assert names == ["fetch", "fetch_reward", "prepare", "train", "evaluate"]
    assert ppo["base"]["recipe"] == "scores"
    trained = json_of(latest(checkout, "scores") / "manifest.json")["stages"]["train"]
    copied = json_of(latest(checkout, "ppo") / "manifest.json")["stages"]["fetch_reward"]
    adapter = "adapter/adapter_model.safetensors"
    assert copied[adapter]["sha256"] == trained[adapter]["sha256"]
    measures = ppo["stages"][-1]["measures"]
    assert measures["reward_change_low"] <= measures["reward_change"]
    assert measures["reward_prompts"] == 8
    assert measures["few_prompts"]


def test_a_second_run_trains_nothing(checkout: Checkout) -> None:
    assert "up to date" in done(checkout, "run", "ppo.yaml")


def test_the_whole_chain_comes_out_again_to_the_byte(checkout: Checkout) -> None:
    text = done(checkout, "verify", "runs/ppo", "--level", "train")
    assert "every byte equal: fetch, fetch_reward, prepare, train, evaluate" in text


def test_the_lock_pins_the_reward_model_and_its_recipe(checkout: Checkout) -> None:
    done(checkout, "lock", "ppo.yaml")
    copied = json_of(latest(checkout, "ppo") / "manifest.json")["stages"]["fetch_reward"]
    lock = checkout.folder / "ppo.lock.yaml"
    digest = copied["adapter/adapter_model.safetensors"]["sha256"]
    assert digest in lock.read_text()
    assert "up to date" in done(checkout, "run", "--locked", "ppo.yaml")
    set_steps(checkout, 4)
    stale = checkout.recipe("run", "--locked", "ppo.yaml")
    plan = json.loads(checkout.recipe("plan", "ppo.yaml", "--format", "json").stdout)
    set_steps(checkout, 3)
    assert stale.returncode == 5
    assert "reward.recipe.train.max_steps: 3 → 4" in stale.stdout + stale.stderr
    assert plan["bases"][0]["stages"][-1]["action"] == "run"
    waits = {stage["stage"]: stage["action"] for stage in plan["stages"]}
    assert (waits["fetch_reward"], waits["prepare"]) == ("pending", "reuse")
