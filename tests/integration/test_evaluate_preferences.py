"""How often base and tuned model prefer the better of two held-out answers."""

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
    Finished,
    ScriptRun,
    WarmInterpreter,
    answers,
    write_preferences,
    write_tokens,
)

LORA = {
    "type": "lora",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
Evaluated = Callable[..., Finished]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def evaluated(
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    warm: WarmInterpreter,
) -> Evaluated:
    """Train by a method, and compare base and tuned model on other answers."""

    def run(
        method: str,
        *,
        rows: Any = None,
        adapter: dict[str, Any] = LORA,
        samples: int = 0,
        **more: Any,
    ) -> Finished:
        place = tmp_path_factory.mktemp("evaluation")
        template = model / "chat_template.jinja"
        tokens = write_preferences(place / "train.safetensors", rows or answers(24))
        settings = SETTINGS | {
            "method": method,
            "max_steps": 24,
            "per_device_train_batch_size": 2,
            "learning_rate": 5e-3,
            "adapter": adapter,
            **METHODS[method].settings,
        }
        trained = ScriptRun(
            environment_python("native"),
            "train_preference_native",
            {"settings": settings, "save_steps": 1000},
            {"model": model, "tokens": tokens, "template": template},
            place / "train",
        ).finish(warm)
        assert trained.status == 0, trained.log
        kind = "model" if adapter["type"] == "none" else "adapter"
        prompt = {"kind": "validation", "messages": [{"role": "user", "content": "Q"}], "ids": [1]}
        (place / "prompts.jsonl").write_text(json.dumps(prompt) + "\n")
        held_out = write_preferences(place / "held-out.safetensors", answers(32, seed=5))
        return ScriptRun(
            environment_python("native"),
            "evaluate_preferences",
            {
                "loss": True,
                "samples": samples,
                "max_new_tokens": 4,
                "questions": None,
                "system": None,
                "dtype": "float32",
                "attn_implementation": "sdpa",
                "trained": kind,
                "method": method,
                "mean": method in ("orpo", "simpo"),
                **more,
            },
            {
                "model": model,
                "trained": trained.folder / kind,
                "tokens": held_out,
                "prompts": place / "prompts.jsonl",
                "template": template,
            },
            place / "evaluate",
        ).finish(warm)

    return run


def measures(result: Finished) -> dict[str, Any]:
    assert result.status == 0, result.log
    found: dict[str, Any] = json.loads(result.files()["evaluation.json"])
    assert found == {key: result.measures()[key] for key in found}
    return found


@pytest.mark.parametrize("method", ["dpo", "orpo", "simpo"])
def test_the_better_held_out_answer_wins_more_often(method: str, evaluated: Evaluated) -> None:
    result = evaluated(method, samples=1)
    found = measures(result)
    assert found["pairs"] == 32
    assert not found["few_pairs"]
    if method != "dpo":  # whose sums over tokens prefer the shorter answer from the start
        assert found["preference_accuracy_tuned"] > found["preference_accuracy_base"]
        assert found["preference_accuracy_change_low"] > 0
    assert found["preference_margin_change_low"] > 0
    assert found["reward_accuracy"] > 0.9
    for name in ("preference_margin_base", "preference_accuracy_tuned", "preference_margin_change"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    line = json.loads(result.files()["answers.jsonl"])
    assert set(line) == {"question", "base", "tuned"}


def test_labels_by_the_toss_of_a_coin_teach_nothing(evaluated: Evaluated) -> None:
    """The control: the same answers, with the sides of every second pair exchanged."""
    rows = answers(24)
    mixed = []
    for number in range(0, len(rows), 2):
        sides = [document for document, _ in rows[number : number + 2]]
        first, second = sides if number % 4 else reversed(sides)
        mixed += [(first, 1), (second, 0)]
    found, learnt = measures(evaluated("dpo", rows=mixed)), measures(evaluated("dpo"))
    assert abs(found["preference_margin_change"]) < 0.3 * learnt["preference_margin_change"]


def test_good_and_bad_answers_move_apart(evaluated: Evaluated) -> None:
    found = measures(evaluated("kto"))
    assert (found["good_answers"], found["bad_answers"]) == (32, 32)
    assert found["preference_margin_change_low"] > 0


@pytest.mark.parametrize("adapter", [LORA, {"type": "none"}], ids=["lora", "every weight"])
def test_a_reward_model_gives_the_better_answer_the_higher_score(
    adapter: dict[str, Any], evaluated: Evaluated
) -> None:
    found = measures(evaluated("reward", adapter=adapter))
    assert found["preference_accuracy_tuned"] > 0.9
    assert found["preference_margin_tuned_low"] > 0
    assert "preference_accuracy_base" not in found


# --- examples


def examples(result: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.files()["examples.jsonl"].split(b"\n")[1:-1]]


@pytest.mark.parametrize(
    ("method", "kind"), [("dpo", "pair-sum"), ("simpo", "pair-mean"), ("reward", "pair-reward")]
)
def test_every_pair_is_kept(method: str, kind: str, evaluated: Evaluated) -> None:
    # of a reward model nothing is asked, and it has no base
    result = evaluated(
        method, **({"metrics": True} if method == "reward" else {"forgetting": True})
    )
    found = measures(result)
    pairs = [line for line in examples(result) if line["kind"] == kind]
    assert len(pairs) == len({pair["id"] for pair in pairs}) == 32
    margins = [pair["tuned"]["margin"] for pair in pairs]
    assert sum(margins) / 32 == pytest.approx(found["preference_margin_tuned"])
    assert all(pair["tuned"]["preferred"] == (pair["tuned"]["margin"] > 0) for pair in pairs)
    assert all(pair["expected"].islower() and pair["rejected"].isupper() for pair in pairs)
    ending = {"pair-sum": "", "pair-mean": "_mean", "pair-reward": "_reward"}[kind]
    summed = found["examples"][f"preference_margin{ending}"]
    for end, name in (("", "value"), ("_low", "low"), ("_high", "high")):
        assert summed["tuned"][name] == found[f"preference_margin_tuned{end}"]
    assert ("change" in summed) == (method != "reward")
    kinds = {line["kind"] for line in examples(result)}
    if method == "reward":
        assert kinds == {kind}
    else:
        assert kinds == {"row", kind, "general", "neutral"}
        check_losses(result)


def check_losses(result: Finished) -> None:
    """Each better answer is a held-out row, of its tokens with the end."""
    rows = [line for line in examples(result) if line["kind"] == "row"]
    assert len(rows) == 32
    assert all(row["expected"].islower() for row in rows)
    assert all(row["tokens"] == len(row["expected"]) + 1 for row in rows)
    loss = sum(row["tuned"]["loss"] for row in rows) / sum(row["tokens"] for row in rows)
    assert measures(result)["examples"]["loss"]["tuned"]["value"] == pytest.approx(loss)


@pytest.mark.parametrize("method", ["dpo", "simpo", "kto"])
def test_the_better_answers_are_the_rows_of_a_run_that_learns_from_answers(
    method: str,
    evaluated: Evaluated,
    environment_python: Callable[[str], Path],
    warm: WarmInterpreter,
    tmp_path: Path,
) -> None:
    """The same ids, the same losses."""
    result = evaluated(method, forgetting=True)
    spec = json.loads((result.folder.parent / "spec.json").read_text())
    newline = 3 + 10  # which a template writes behind the end, and nobody predicts
    chosen = [((*ids, newline), (*mask, 0)) for (ids, mask), good in answers(32, seed=5) if good]
    tokens = tmp_path / "validation.safetensors"
    inputs = {name: Path(path) for name, path in spec["where"]["inputs"].items()}
    inputs["tokens"] = write_tokens(tokens, [[each] for each in chosen], packed=False)
    python = environment_python("native")
    plain = ScriptRun(python, "evaluate", spec["hashed"], inputs, tmp_path / "run").finish(warm)
    assert plain.status == 0, plain.log
    there, here = (
        {line["id"]: line for line in examples(each) if line["kind"] == "row"}
        for each in (result, plain)
    )
    assert len(there) == 32
    assert there.keys() == here.keys()
    for key, line in here.items():
        assert (line["tokens"], line["expected"]) == (there[key]["tokens"], there[key]["expected"])
        for name in ("base", "tuned"):
            assert line[name]["loss"] == pytest.approx(there[key][name]["loss"], rel=1e-4)


def test_every_judged_answer_is_kept(evaluated: Evaluated) -> None:
    result = evaluated("kto", forgetting=True)
    found = measures(result)
    moved = {
        kind: [
            line["tuned"]["logp"] - line["base"]["logp"]
            for line in examples(result)
            if line["kind"] == kind
        ]
        for kind in ("good-answer", "bad-answer")
    }
    means = {kind: sum(each) / len(each) for kind, each in moved.items()}
    change = means["good-answer"] - means["bad-answer"]
    assert change == pytest.approx(found["preference_margin_change"])
    assert found["examples"]["neutral_kl"]["tuned"]["value"] > 0
