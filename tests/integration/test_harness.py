"""Tasks of lm-evaluation-harness with two tiny models: real prompts, real scoring, no training."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.task_files import read_task
from tests.tiny_model import write_tiny_model
from tests.training_runs import Finished, ScriptRun, WarmInterpreter

CHOICE = """\
task: capitals
output_type: multiple_choice
doc_to_text: "Question: {{asked}}\\nAnswer:"
doc_to_target: label
doc_to_choice: choices
"""
WORDS = """\
task: words
output_type: generate_until
doc_to_text: asked
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, ignore_case: true}]
"""
ROWS = [
    {"asked": f"the capital of {name}", "choices": choices.split(), "label": number % 3}
    for number, (name, choices) in enumerate(
        {  # of equal length: a model of chance takes the shortest
            "otters": "upward inside behind",
            "cats": "market harbor castle",
            "bees": "violet orange yellow",
            "owls": "winter summer autumn",
            "ants": "silver golden copper",
        }.items()
    )
]
SETTINGS: dict[str, Any] = {
    "limit": None,
    "num_fewshot": None,
    "apply_chat_template": False,
    "system": None,
    "seed": 42,
    "trained": "model",
    "dtype": "float32",
    "attn_implementation": "sdpa",
}
# Sums of log-probabilities of each choice behind the prompt, by the model alone.
BY_HAND = """
import json, sys, torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

def chosen(model, tokenizer, row):
    prompt = "Question: " + row["asked"] + "\\nAnswer:"
    sums = []
    for choice in row["choices"]:
        ids = tokenizer(prompt + " " + choice).input_ids
        begin = len(tokenizer(prompt).input_ids)
        with torch.inference_mode():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        sums.append(sum(logs[at - 1, ids[at]].item() for at in range(begin, len(ids))))
    return row["choices"][sums.index(max(sums))]

found = []
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found.append([chosen(model, tokenizer, row) for row in json.loads(sys.argv[1])])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of other weights, which stand for before and after."""
    folder = tmp_path_factory.mktemp("models")
    return write_tiny_model(folder / "base"), write_tiny_model(folder / "tuned", seed=8)


@pytest.fixture
def tasks(
    environment_python: Callable[[str], Path],
    models: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., ScriptRun]:
    """Make a run of task files, each with its rows and perhaps those for examples."""

    def make(
        *given: tuple[str, Sequence[Mapping[str, Any]]],
        fewshot: Sequence[Mapping[str, Any]] = (),
        model: Path | None = None,
        **settings: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp("harness")
        inputs = {"model": model or models[0], "trained": models[1]}
        inputs["template"] = models[0] / "chat_template.jinja"
        configurations = []
        for number, (text, rows) in enumerate(given):
            (place / "task.yaml").write_text(text)
            configuration, problems = read_task(place / "task.yaml")
            assert not problems
            configurations.append(configuration)
            inputs[f"data-{number}"] = lines(place / f"data-{number}.jsonl", rows)
            if fewshot:
                inputs[f"fewshot-{number}"] = lines(place / f"few-{number}.jsonl", fewshot)
        hashed = SETTINGS | settings | {"tasks": configurations}
        return ScriptRun(environment_python("harness"), "harness", hashed, inputs, place)

    return make


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def finish(run: ScriptRun, warm: WarmInterpreter) -> Finished:
    result = run.finish(warm)
    assert result.status == 0, result.log
    return result


def examples(result: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.files()["examples.jsonl"].splitlines()[1:]]


def test_both_kinds_of_tasks_are_scored_for_both_models_and_again_to_the_same_bytes(
    tasks: Callable[..., ScriptRun],
    warm_harness: WarmInterpreter,
    environment_python: Callable[[str], Path],
    models: tuple[Path, Path],
) -> None:
    words = [{"asked": f"otter {number}", "answer": "never said"} for number in range(3)]
    result = finish(tasks((CHOICE, ROWS), (WORDS, words)), warm_harness)
    found = examples(result)
    of_choice = [line for line in found if line["task"] == "capitals"]
    assert len(of_choice) == 5
    assert {line["expected"] for line in of_choice} == {
        row["choices"][row["label"]] for row in ROWS
    }
    argv = [str(environment_python("harness")), "-c", BY_HAND, json.dumps(ROWS), *map(str, models)]
    all_by_hand = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert all_by_hand[0] != all_by_hand[1], "two models that choose the same would prove little"
    for side, by_hand in zip(("base", "tuned"), all_by_hand, strict=True):
        chosen = {line["prompt"]: line[side]["answer"] for line in of_choice}
        prompts = [f"Question: {row['asked']}\nAnswer:" for row in ROWS]
        assert [chosen[prompt] for prompt in prompts] == by_hand
        for line in of_choice:
            assert line[side]["acc"] == float(line[side]["answer"] == line["expected"])
    assert {line["base"]["exact_match"] for line in found if line["task"] == "words"} == {0.0}
    summary = result.measures()["tasks"]
    assert sorted(summary) == ["capitals/acc", "capitals/acc_norm", "words/exact_match"]
    rate = sum(line["tuned"]["acc"] for line in of_choice) / 5
    assert summary["capitals/acc"]["tuned"]["value"] == pytest.approx(rate)
    assert (summary["capitals/acc"]["count"], summary["capitals/acc"]["few"]) == (5, True)
    again = tasks((CHOICE, ROWS), (WORDS, words)).finish_cold()
    assert again.files() == result.files()
    # What a model really says is right when it is what was expected.
    said = {line["prompt"]: line["tuned"]["answer"] for line in found if line["task"] == "words"}
    right = [{"asked": row["asked"], "answer": said[row["asked"]].upper()} for row in words]
    hits = examples(finish(tasks((WORDS, right)), warm_harness))
    assert {line["tuned"]["exact_match"] for line in hits} == {1.0}


def test_examples_come_from_their_own_rows_and_the_seed_decides_which(
    tasks: Callable[..., ScriptRun], warm_harness: WarmInterpreter
) -> None:
    shots = [{**ROWS[0], "asked": f"shot {number}"} for number in range(8)]

    def prompts(**settings: Any) -> list[str]:
        run = tasks((CHOICE, ROWS), fewshot=shots, num_fewshot=2, limit=3, **settings)
        return [line["prompt"] for line in examples(finish(run, warm_harness))]

    first = prompts()
    assert len(first) == 3
    assert all(prompt.count("shot ") == 2 for prompt in first)
    assert not any("otters" in prompt.split("\n\n")[0] for prompt in first)
    assert prompts() == first
    assert prompts(seed=43) != first


def test_a_conversation_has_the_system_prompt_and_the_template(
    tasks: Callable[..., ScriptRun], warm_harness: WarmInterpreter
) -> None:
    run = tasks((CHOICE, ROWS[:1]), apply_chat_template=True, system="Be brief.")
    [line] = examples(finish(run, warm_harness))
    assert "Be brief." in line["prompt"]
    assert line["prompt"].index("Be brief.") < line["prompt"].index("the capital")
    assert not line["prompt"].startswith("Question")


@pytest.mark.parametrize(
    ("text", "rows", "code", "words"),
    [
        (
            CHOICE.replace("{{asked}}", "{{gone}}"),
            ROWS,
            "E925",
            'task capitals does not fit its rows: doc_to_text wants "gone": row 1 of data-0.jsonl; '
            "its rows have asked, choices, label",
        ),
        (
            CHOICE,
            [*ROWS[:2], {**ROWS[2], "label": 3}, {**ROWS[3], "label": -1}],
            "E925",
            "the right answer is 3, which is none of the 3 choices: row 3 (and 1 more) of data-0",
        ),
        (
            CHOICE.replace("target: label", "target: lable"),
            ROWS,
            "E925",
            "the right answer is lable, which is none of the 3 choices: row 1 (and 4 more) of",
        ),
        (
            CHOICE.replace("choices\n", "'{{choices[:2] if label < 2 else other}}'\n"),
            ROWS,
            "E925",
            'doc_to_choice wants "other": row 3 of data-0.jsonl',
        ),
        (CHOICE, [{"asked": 1}, {"asked": "x"}], "E924", "cannot be used"),
        (WORDS, [{"asked": "word " * 3000, "answer": "x"}], "E926", "the model has room for"),
        (
            CHOICE.replace("{{asked}}", "{{ ''.__class__.__mro__ }}"),
            ROWS,
            "E925",
            "access to attribute '__class__' of 'str' object is unsafe",
        ),
    ],
    ids=[
        "a key that is not there",
        "a right answer that is no choice",
        "a key in a wrong spelling",
        "a key that a later row wants",
        "rows of two types",
        "too long",
        "a template that reaches out",
    ],
)
def test_what_does_not_fit_is_said(
    text: str,
    rows: list[dict[str, Any]],
    code: str,
    words: str,
    tasks: Callable[..., ScriptRun],
    warm_harness: WarmInterpreter,
) -> None:
    result = tasks((text, rows)).finish(warm_harness)
    assert (result.status, result.error()["code"]) == (1, code), result.log
    assert words in result.error()["message"]


def test_all_tasks_that_do_not_fit_are_named_before_a_model_is_loaded(
    tasks: Callable[..., ScriptRun],
    warm_harness: WarmInterpreter,
    models: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    words = [{"asked": f"otter {number}"} for number in range(3)]
    empty = tmp_path / "model"  # with a tokenizer, and no weights
    shutil.copytree(models[0], empty, ignore=shutil.ignore_patterns("*.safetensors"))
    gone = CHOICE.replace("{{asked}}", "{{gone}}")
    run = tasks((gone, ROWS), (WORDS, words), (CHOICE, ROWS), model=empty)
    result = run.finish(warm_harness)
    assert (result.status, result.error()["code"]) == (1, "E925"), result.log
    lines = result.error()["message"].splitlines()
    assert lines[0] == "2 tasks cannot be asked:"
    assert lines[1].startswith('  task capitals does not fit its rows: doc_to_text wants "gone"')
    assert lines[2] == (
        '  task words does not fit its rows: doc_to_target wants "answer": row 1 of data-1.jsonl; '
        "its rows have asked"
    )
    assert len(lines) == 3


def test_rows_for_examples_have_to_fit_too(
    tasks: Callable[..., ScriptRun], warm_harness: WarmInterpreter
) -> None:
    shots = [{**ROWS[0], "label": 7 * (number == 4)} for number in range(8)]
    result = tasks((CHOICE, ROWS), fewshot=shots, num_fewshot=2).finish(warm_harness)
    assert (result.status, result.error()["code"]) == (1, "E925"), result.log
    assert "the right answer is 7" in result.error()["message"]
    assert "row 5 of few-0.jsonl" in result.error()["message"]
    # what is not read is not looked at
    finish(tasks((CHOICE, ROWS), fewshot=shots, num_fewshot=0), warm_harness)


FULL_GPU = """
import torch
from lm_eval import evaluator

def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

evaluator.evaluate = full
"""


def test_a_gpu_that_is_too_small_is_told_of_with_what_helps_here(
    tasks: Callable[..., ScriptRun], tmp_path: Path
) -> None:
    """The harness raises what torch raises on a full GPU: no batch of the training is to blame."""
    (tmp_path / "sitecustomize.py").write_text(FULL_GPU)
    result = tasks((CHOICE, ROWS)).finish_cold(PYTHONPATH=str(tmp_path))
    assert result.status == 1
    (error,) = [event for event in result.events if event["event"] == "error"]
    assert error["code"] == "E509"
    assert error["message"].startswith("the GPU has too little memory: CUDA out of memory.")
    assert "evaluate.harness.num_fewshot" in error["hint"]
