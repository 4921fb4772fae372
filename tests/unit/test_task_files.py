"""Task files of lm-evaluation-harness: what is read, what is refused, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.recipe.task_files import CODE, read_task

CHOICE = """\
task: capitals
output_type: multiple_choice
doc_to_text: "{{country}}"
doc_to_target: label
doc_to_choice: choices
"""
WORDS = """\
task: words
output_type: generate_until
doc_to_text: asked
doc_to_target: answer
"""


def read(folder: Path, text: str) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    path = folder / "task.yaml"
    path.write_text(text)
    return read_task(path)


def test_every_default_is_written_out(tmp_path: Path) -> None:
    configuration, problems = read(tmp_path, WORDS)
    assert problems == []
    assert configuration == {
        "task": "words",
        "output_type": "generate_until",
        "doc_to_text": "asked",
        "doc_to_target": "answer",
        "description": "",
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "num_fewshot": 0,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 256, "do_sample": False},
    }


def test_where_rows_come_from_and_how_a_task_is_filed_changes_nothing(tmp_path: Path) -> None:
    more = "dataset_path: some/rows\ndataset_kwargs: {trust_remote_code: true}\ntest_split: test\n"
    more += "tag: [a]\nmetadata: {version: 1.0}\nunsafe_code: false\nrepeats: 1\n"
    assert read(tmp_path, CHOICE + more) == read(tmp_path, CHOICE)


@pytest.mark.parametrize("key", sorted(CODE))
def test_what_runs_code_is_refused(key: str, tmp_path: Path) -> None:
    configuration, problems = read(tmp_path, f"{CHOICE}{key}: utils.do\n")
    assert configuration == {}
    [(code, words, _)] = problems
    assert code == "E271"
    assert words.startswith(f'6:1: "{key}" runs code')


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (WORDS.replace("answer", "!function utils.target"), "E270", "4:16: the YAML tag !function"),
        (WORDS.replace("answer", "!!python/name:os.system"), "E270", "4:16: the YAML tag"),
        ("- 1\n", "E270", "no mapping"),
        ("task: [\n", "E270", ":"),
        (WORDS.replace("task: words\n", ""), "E272", 'the task lacks "task"'),
        (WORDS.replace("words", "../words"), "E272", "1:7: task must be a name"),
        (WORDS.replace("generate_until", "loglikelihood_rolling"), "E272", "output_type must be"),
        (CHOICE.replace("doc_to_choice: choices\n", ""), "E272", "doc_to_choice"),
        (CHOICE + "metric_list: [{metric: exact_match}]\n", "E272", "one of acc, acc_norm"),
        (
            WORDS + "metric_list: [{metric: exact_match, hf_evaluate: true}]\n",
            "E272",
            "hf_evaluate",
        ),
        (
            WORDS + "metric_list: [{metric: exact_match, aggregation: !!str median}]\n",
            "E270",
            "tag",
        ),
        (WORDS + "metric_list: [{metric: exact_match, aggregation: median}]\n", "E272", "mean"),
        (WORDS + "metric_list: [exact_match]\n", "E272", "one of exact_match"),
        (WORDS + "generation_kwargs: {temperature: 0.7}\n", "E272", "temperature cannot"),
        (WORDS + "generation_kwargs: {max_gen_toks: 100000}\n", "E272", "max_gen_toks cannot"),
        (WORDS + "filter_list: [{name: x, filter: [{function: custom}]}]\n", "E272", "not known"),
        (
            WORDS + "filter_list: [{name: x, filter: [{function: regex, regex_pattern: '('}]}]\n",
            "E272",
            "not known",
        ),
        (WORDS + "num_fewshot: -1\n", "E272", "num_fewshot must be"),
        (WORDS + "repeats: 5\n", "E272", "repeats must be 1"),
        (WORDS + "doc_to_txt: x\n", "E271", "not a key of a task"),
    ],
)
def test_what_cannot_be_honoured_is_said_with_its_place(
    text: str, code: str, words: str, tmp_path: Path
) -> None:
    configuration, problems = read(tmp_path, text)
    assert configuration == {}
    assert problems[0][0] == code
    assert words in problems[0][1]


def test_a_filter_and_its_metric_are_taken_as_they_stand(tmp_path: Path) -> None:
    steps = "[{function: regex, regex_pattern: '(\\d+)', group_select: -1}, {function: take_first}]"
    more = f"filter_list: [{{name: last, filter: {steps}}}]\n"
    configuration, problems = read(tmp_path, WORDS + more)
    assert problems == []
    assert configuration["filter_list"][0]["filter"][0]["regex_pattern"] == "(\\d+)"
