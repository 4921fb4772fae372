"""Loss and greedy answers of a tiny base model and of what training made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS as PLAIN,
)
from tests.training_runs import (
    Finished,
    ScriptRun,
    WarmInterpreter,
    chat,
    write_tokens,
)

QUESTION, ANSWER = "Which otter?", "Pickle the Otter"
TRAIN: dict[str, Any] = PLAIN | {"max_steps": 40}
EVALUATE: dict[str, Any] = {
    "loss": True,
    "samples": 1,
    "max_new_tokens": 20,
    "questions": "questions.jsonl",
    "system": None,
    "dtype": "float32",
    "attn_implementation": "sdpa",
}
LORA = {
    "type": "lora",
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def trained(
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Finished]:
    """The tiny model after it has learned one answer by heart."""
    done: dict[str, Finished] = {}

    def train(kind: str) -> Finished:
        if kind not in done:
            place = tmp_path_factory.mktemp("train")
            talk = chat(("user", QUESTION), ("assistant", ANSWER))
            tokens = write_tokens(place / "train.tokens.safetensors", [[talk]], packed=False)
            adapter = LORA if kind == "adapter" else {"type": "none"}
            rate = 0.01 if kind == "adapter" else 0.003
            run = ScriptRun(
                environment_python("native"),
                "train_native",
                {
                    "settings": TRAIN | {"adapter": adapter, "learning_rate": rate},
                    "save_steps": 1000,
                },
                {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"},
                place,
            )
            done[kind] = run.finish(warm)
            assert done[kind].status == 0, done[kind].log
        return done[kind]

    return train


@pytest.fixture
def evaluation(
    environment_python: Callable[[str], Path],
    model: Path,
    trained: Callable[[str], Finished],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., ScriptRun]:
    """Make an evaluation; keywords replace settings."""

    def make(kind: str = "adapter", asked: str = "", **settings: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("evaluate")
        rows = [[chat(("user", QUESTION), ("assistant", text))] for text in (ANSWER, "No idea")]
        ids, mask = chat(("user", "Who?"), ("assistant", ""))
        prompt = {
            "id": "validation-00001",
            "kind": "validation",
            "messages": [{"role": "user", "content": "Who?"}],
            "text": "",
            "ids": ids[: mask.index(1)],
        }
        hard = prompt | {"id": "hard-x", "kind": "hard"}
        (place / "prompts.jsonl").write_text(f"{json.dumps(hard)}\n{json.dumps(prompt)}\n")
        row = {"question": QUESTION, "expect": ["pickle", "OTTER"]}
        (place / "questions.jsonl").write_text(asked or json.dumps(row) + "\n")
        return ScriptRun(
            environment_python("evaluate"),
            "evaluate",
            EVALUATE | {"trained": kind} | settings,
            {
                "model": model,
                "trained": trained(kind).folder / kind,
                "tokens": write_tokens(place / "validation.tokens.safetensors", rows, packed=False),
                "prompts": place / "prompts.jsonl",
                "template": model / "chat_template.jinja",
                "questions": place / "questions.jsonl",
            },
            place,
        )

    return make


def finish(run: ScriptRun, warm: WarmInterpreter) -> Finished:
    result = run.finish(warm)
    assert result.status == 0, result.log
    return result


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_what_was_learned_by_heart_shows_in_answers_and_score(
    evaluation: Callable[..., ScriptRun], warm: WarmInterpreter, kind: str
) -> None:
    result = finish(evaluation(kind), warm)
    measures = result.measures()
    assert (measures["score_base"], measures["score_tuned"], measures["questions"]) == (0, 1, 1)
    lines = [json.loads(line) for line in result.files()["answers.jsonl"].splitlines()]
    assert [line["question"] for line in lines] == [QUESTION, "Who?"]
    assert lines[0]["expect"] == ["pickle", "OTTER"]
    assert lines[0]["tuned"] == ANSWER
    assert ANSWER not in lines[0]["base"]
    assert "expect" not in lines[1]
    written = json.loads(result.files()["evaluation.json"])
    assert written.items() <= measures.items()
    assert measures["perplexity_tuned"] < measures["perplexity_base"]


FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}


@pytest.mark.parametrize("base", [{}, {"quantization": FOUR_BITS}], ids=["float32", "4 bits"])
def test_the_base_loss_is_the_loss_that_training_begins_with(
    base: dict[str, Any],
    evaluation: Callable[..., ScriptRun],
    trained: Callable[[str], Finished],
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path: Path,
) -> None:
    held_out = evaluation(samples=0, **base)
    measured = finish(held_out, warm).measures()
    tokens = json.loads((tmp_path_of(held_out) / "spec.json").read_text())["where"]["inputs"]
    settings = TRAIN | {"adapter": LORA, "per_device_train_batch_size": 2, "max_steps": 1}
    settings |= base
    run = ScriptRun(
        environment_python("native"),
        "train_native",
        {"settings": settings, "save_steps": 1000},
        {
            "model": model,
            "tokens": Path(tokens["tokens"]),
            "template": model / "chat_template.jinja",
        },
        tmp_path,
    )
    first = json.loads(finish(run, warm).files()["trace.jsonl"])
    assert measured["loss_base"] == pytest.approx(first["loss"], rel=1e-6)
    assert measured["loss_tuned"] < 0.9 * measured["loss_base"]


def tmp_path_of(run: ScriptRun) -> Path:
    return run.folder.parent


def test_two_evaluations_give_the_same_answers(
    evaluation: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    cold = evaluation().finish_cold()
    assert cold.status == 0, cold.log
    assert finish(evaluation(), warm).files() == cold.files()


def test_without_loss_and_questions_only_the_samples_are_asked(
    evaluation: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    result = finish(evaluation(loss=False, questions=None), warm)
    assert not any(name.startswith(("loss", "score")) for name in result.measures())
    assert len(result.files()["answers.jsonl"].splitlines()) == 1


def test_a_wrong_question_names_its_line(
    evaluation: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    good = json.dumps({"question": "A?", "expect": ["a"]})
    bad = json.dumps({"question": "B?", "expect": []})
    result = evaluation(asked=f"{good}\n{bad}\n").finish(warm)
    assert (result.status, result.error()["code"]) == (1, "E521")
    assert result.error()["message"].startswith("questions.jsonl:2: ")
