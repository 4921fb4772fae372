"""Loss and greedy answers of a tiny base model and of what training made of it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.cli.main import main
from runner.scripts.evaluation.examples import FILE
from tests.chain import ROOT
from tests.evaluated_runs import relist, write_evaluated_run
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
            environment_python("metrics" if settings.get("metrics") else "evaluate"),
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


# --- examples, task metrics, forgetting


@pytest.fixture(scope="module")
def warm_metrics(environment_python: Callable[[str], Path]) -> Iterator[WarmInterpreter]:
    interpreter = WarmInterpreter(environment_python("metrics"))
    yield interpreter
    interpreter.close()


def examples(result: Finished) -> list[dict[str, Any]]:
    """The lines of examples.jsonl behind the first."""
    lines = result.files()["examples.jsonl"].split(b"\n")[:-1]
    assert json.loads(lines[0]) == {"schema": 1, "max_new_tokens": 20}
    return [json.loads(line) for line in lines[1:]]


def of_kind(result: Finished, kind: str) -> list[dict[str, Any]]:
    return [line for line in examples(result) if line["kind"] == kind]


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_every_example_is_kept_and_measured(
    kind: str, evaluation: Callable[..., ScriptRun], warm_metrics: WarmInterpreter
) -> None:
    result = finish(evaluation(kind, metrics=True, forgetting=True), warm_metrics)
    rows = of_kind(result, "row")
    measured = result.measures()
    assert {row["expected"] for row in rows} == {ANSWER, "No idea"}
    tokens = sum(row["tokens"] for row in rows)
    for name in ("base", "tuned"):
        total = sum(row[name]["loss"] for row in rows)
        assert total / tokens == pytest.approx(measured[f"loss_{name}"], rel=1e-12)

    (question,) = of_kind(result, "question")
    assert (question["prompt"], question["expected"]) == (QUESTION, "pickle OTTER")
    tuned = question["tuned"]
    assert tuned["answer"] == ANSWER
    assert (tuned["hit"], tuned["exact_match"], tuned["f1"]) == (True, 1, 1)  # without "the"
    assert tuned["rouge_l"] == pytest.approx(0.8)
    assert tuned["sound"]
    assert tuned["length"] == len(ANSWER)  # one token a byte
    assert not question["base"]["hit"]
    assert not question["base"]["ended"]

    general, neutral = of_kind(result, "general"), of_kind(result, "neutral")
    assert len(general) == 40
    assert len(neutral) == 32
    assert all(text["tuned"]["kl"] > 0 and text["base"]["kl"] == 0 for text in neutral)
    summed = measured["examples"]
    assert summed["neutral_kl"]["change"]["low"] > 0
    assert summed["general_hit"]["count"] == 40
    assert not summed["general_hit"]["few"]
    assert summed["loss"]["few"]
    assert summed["loss"]["change"]["value"] == pytest.approx(
        measured["loss_tuned"] - measured["loss_base"]
    )
    keys = [(line["kind"], line["id"]) for line in examples(result)]
    for one in {kind for kind, _ in keys}:
        ids = [key for kind, key in keys if kind == one]
        assert ids == sorted(ids)


def test_a_held_out_answer_is_compared_with_its_row(
    evaluation: Callable[..., ScriptRun], warm_metrics: WarmInterpreter, tmp_path: Path
) -> None:
    run = evaluation(metrics=True)
    ids, mask = chat(("user", QUESTION), ("assistant", ""))
    prompt = {
        "kind": "validation",
        "messages": [{"role": "user", "content": QUESTION}],
        "ids": ids[: mask.index(1)],
    }
    (run.folder.parent / "prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    (sample,) = of_kind(finish(run, warm_metrics), "sample")
    assert sample["expected"] == ANSWER
    assert sample["tuned"]["exact_match"] == 1
    assert sample["base"]["exact_match"] == 0


def test_without_the_new_settings_nothing_is_written_besides(
    evaluation: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    plain = finish(evaluation(), warm)
    assert set(plain.files()) == {"answers.jsonl", "evaluation.json"}
    forgetting = finish(evaluation(forgetting=True), warm)  # where there is no torchmetrics
    assert forgetting.files()["answers.jsonl"] == plain.files()["answers.jsonl"]
    assert of_kind(forgetting, "question")[0]["tuned"].keys().isdisjoint({"f1", "rouge_l"})


def test_examples_are_the_same_in_a_process_that_shares_nothing(
    evaluation: Callable[..., ScriptRun], warm_metrics: WarmInterpreter
) -> None:
    settings = {"metrics": True, "forgetting": True}
    cold = evaluation(**settings).finish_cold()
    assert cold.status == 0, cold.log
    again = finish(evaluation(**settings), warm_metrics)
    assert again.files() == cold.files()


KNOWN = [  # answer, expected, exact match, F1, ROUGE-L
    ("The answer is Paris.", "Paris", 0, 2 * (1 / 3) / (4 / 3), 2 * (1 / 4) / (5 / 4)),
    ("paris!", "Paris", 1, 1, 1),
    ("An apple", "the apple", 1, 1, 0.5),
    ("police killed the gunman", "the gunman killed police", 0, 1, 0.5),
    ("gr\u00fcn und blau", "GR\u00dcN", 0, 0.5, 0.5),
    ("", "Paris", 0, 0, 0),
    ("...", "Paris", 0, 0, 0),
]


def test_task_metrics_have_the_values_known_by_hand(
    environment_python: Callable[[str], Path],
) -> None:
    code = (
        "import json, sys; from runner.scripts.evaluation.text_metrics import text_metrics\n"
        "pairs = json.loads(sys.argv[1])\n"
        "print(json.dumps([text_metrics(*pair) for pair in pairs]))"
    )
    pairs = json.dumps([known[:2] for known in KNOWN])
    said = subprocess.run(
        [environment_python("metrics"), "-c", code, pairs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for found, (_, _, *expected) in zip(json.loads(said.stdout), KNOWN, strict=True):
        values = [found[name] for name in ("exact_match", "f1", "rouge_l")]
        assert values == pytest.approx(expected, abs=1e-5)


def test_what_a_real_evaluation_kept_is_compared(
    evaluation: Callable[..., ScriptRun],
    warm_metrics: WarmInterpreter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = finish(evaluation(metrics=True, forgetting=True), warm_metrics)
    run = write_evaluated_run(tmp_path, "learnt", [])
    (run / "evaluation" / FILE).write_bytes(result.files()[FILE])
    relist(run, FILE)
    capsys.readouterr()
    assert main(["compare", str(run), "--format", "json", "-o", str(tmp_path / "page")]) == 0
    data = json.loads(capsys.readouterr().out)
    (comparison,) = data["comparisons"]
    found = {each["measure"]: each for each in comparison["differences"]}
    summed = result.measures()["examples"]
    assert found.keys() == summed.keys()
    for name, each in summed.items():
        change = {end: found[name]["estimate"][end] for end in ("value", "low", "high")}
        assert change == pytest.approx(each["change"])
    assert found["general_hit"]["estimate"]["count"] == 40
    assert (tmp_path / "page" / "compare.html").is_file()


def test_the_divergence_is_the_sum_over_tokens_of_the_textbook(
    environment_python: Callable[[str], Path],
) -> None:
    """KL((1/2, 1/2, 0), (1/4, 3/4, 0)) and of equal ones; a token that cannot come adds nothing."""
    code = (
        "import torch; from runner.scripts.evaluation.neutral import divergence\n"
        "before = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]).log()\n"
        "after = torch.tensor([[0.25, 0.75, 0.0], [0.1, 0.2, 0.7]]).log()\n"
        "print(divergence(before, after), divergence(before, before))"
    )
    said = subprocess.run(
        [environment_python("evaluate"), "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found, of_equal = map(float, said.stdout.split())
    assert found == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)
    assert of_equal == 0


def test_a_model_of_no_numbers_is_told(
    evaluation: Callable[..., ScriptRun], warm: WarmInterpreter, tmp_path: Path
) -> None:
    run = evaluation("model", loss=False, questions=None, samples=0, forgetting=True)
    place = tmp_path_of(run) / "spec.json"
    spec = json.loads(place.read_text())
    broken = tmp_path / "broken"
    shutil.copytree(spec["where"]["inputs"]["trained"], broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    spec["where"]["inputs"]["trained"] = str(broken)
    place.write_text(json.dumps(spec))
    result = run.finish(warm)
    assert (result.status, result.error()["code"]) == (1, "E370")
    assert "examples.jsonl" not in result.files()


FREED = """
import sys
from pathlib import Path
import torch
from runner.scripts.evaluate import load_model, tuned_model
from runner.scripts.spec import Spec
settings = {"dtype": "float32", "attn_implementation": "sdpa", "trained": "model"}
folder, cpu = Path(sys.argv[1]), torch.device("cpu")
spec = Spec(settings, {"model": folder, "trained": folder}, folder, folder, folder)
base = load_model(folder, settings, cpu)
tuned = tuned_model(base, spec, cpu)
print([sorted({weight.device.type for weight in each.parameters()}) for each in (base, tuned)])
"""


def test_the_base_is_out_of_memory_when_a_model_of_its_own_is_asked(
    environment_python: Callable[[str], Path], model: Path
) -> None:
    ended = subprocess.run(
        [str(environment_python("evaluate")), "-c", FREED, str(model)],
        env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "[['meta'], ['cpu']]\n", ended.stderr
