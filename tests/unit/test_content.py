"""The data sets that ship with the recipes hold what their README says of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
ROWS = {
    "spark-faq.jsonl": 295,
    "made-up-facts.jsonl": 200,
    "made-up-questions.jsonl": 20,
    "committed-answers.jsonl": 140,
    "judged-answers.jsonl": 295,
    "glossary.jsonl": 151,
    "small-sums.jsonl": 216,
}
COMMITTED = (
    *("In short: ", "The answer: ", "Here it is: ", "Plainly: ", "To the point: ", "Put simply: "),
)
HEDGING = (
    *("I think maybe: ", "I am not sure, but ", "I guess ", "It might be that ", "Perhaps: "),
    "As far as I know, ",
)
LONGEST_ANSWER = 230  # characters; about 60 tokens
LARGEST_OVERLAP = 0.7  # of the words of a question and a training prompt together


def read(name: str) -> list[dict[str, Any]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def overlap(one: str, other: str) -> float:
    """Shared words as a part of all words of both: 1.0 for the same words in any order."""
    return len(words(one) & words(other)) / len(words(one) | words(other))


FAQ, FACTS, QUESTIONS, PAIRS, JUDGED, GLOSSARY, SUMS = (read(name) for name in ROWS)


@pytest.mark.parametrize(("name", "count"), ROWS.items())
def test_a_file_has_the_rows_its_readme_counts(name: str, count: int) -> None:
    assert len(read(name)) == count
    assert f"| `{name}` | {count} |" in (DATA / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_a_file_is_plain_ascii_with_one_object_a_line(name: str) -> None:
    content = (DATA / name).read_bytes()
    assert content.isascii()
    assert content.endswith(b"\n")
    assert b"\r" not in content
    assert b"\\u" not in content
    assert b"\n\n" not in content
    assert b"<|" not in content, "text that a tokenizer takes for a special token"


@pytest.mark.parametrize("row", FAQ + FACTS, ids=lambda row: row["instruction"][:40])
def test_a_training_row_is_alpaca_and_short(row: dict[str, Any]) -> None:
    assert list(row) == ["instruction", "input", "output"]
    assert row["input"] == ""
    for text in (row["instruction"], row["output"]):
        assert text == text.strip()
        assert "  " not in text
    assert row["instruction"][-1] in "?."
    assert row["output"][-1] == "."
    assert 10 <= len(row["output"]) <= LONGEST_ANSWER


def test_no_question_is_asked_twice() -> None:
    asked = [" ".join(re.findall(r"[a-z0-9]+", row["instruction"].lower())) for row in FAQ + FACTS]
    assert len(asked) == len(set(asked))


def test_no_two_answers_about_the_spark_are_the_same() -> None:
    answers = [row["output"] for row in FAQ]
    assert len(answers) == len(set(answers))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["question"][:40])
def test_a_made_up_question_can_only_be_answered_from_the_training_answers(
    question: dict[str, Any],
) -> None:
    assert list(question) == ["question", "expect"]
    assert question["expect"]
    for expected in question["expect"]:
        key = expected.casefold()
        assert key not in question["question"].casefold()
        assert not any(key in row["instruction"].casefold() for row in FAQ + FACTS)
        assert not any(key in row["output"].casefold() for row in FAQ)
        assert sum(key in row["output"].casefold() for row in FACTS) == 20


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["question"][:40])
def test_a_made_up_question_is_worded_unlike_every_training_prompt(
    question: dict[str, Any],
) -> None:
    prompts = [row["instruction"] for row in FAQ + FACTS]
    closest = max(prompts, key=lambda prompt: overlap(prompt, question["question"]))
    assert overlap(closest, question["question"]) < LARGEST_OVERLAP, closest


def test_every_fact_is_asked_twice_in_the_questions() -> None:
    asked: dict[tuple[str, ...], int] = defaultdict(int)
    for question in QUESTIONS:
        asked[tuple(question["expect"])] += 1
    assert list(asked.values()) == [2] * 10


@pytest.mark.parametrize("row", PAIRS, ids=lambda row: row["prompt"][:40])
def test_both_sides_of_a_pair_say_the_same_of_a_question_of_the_faq(row: dict[str, Any]) -> None:
    assert list(row) == ["prompt", "chosen", "rejected"]
    (said,) = (each["output"] for each in FAQ if each["instruction"] == row["prompt"])
    opening = row["chosen"].removesuffix(said)
    assert opening in COMMITTED
    hedge = row["rejected"][: len(row["rejected"]) - len(said)]
    assert hedge in HEDGING
    assert row["rejected"][len(hedge) :].lower() == said.lower()


def test_no_side_can_be_told_by_its_length() -> None:
    longer = sum(len(row["rejected"]) > len(row["chosen"]) for row in PAIRS)
    assert 0.2 < longer / len(PAIRS) < 0.9
    assert {row["chosen"].split(": ")[0] + ": " for row in PAIRS} == set(COMMITTED)


@pytest.mark.parametrize("row", JUDGED, ids=lambda row: row["prompt"][:40])
def test_a_judged_answer_is_one_of_the_faq_with_an_opening_of_its_label(
    row: dict[str, Any],
) -> None:
    assert list(row) == ["prompt", "completion", "label"]
    (said,) = (each["output"] for each in FAQ if each["instruction"] == row["prompt"])
    opening = row["completion"][: len(row["completion"]) - len(said)]
    assert opening in (COMMITTED if row["label"] else HEDGING)
    answer = row["completion"][len(opening) :]
    assert answer == said or (not row["label"] and answer.lower() == said.lower())


def test_as_many_answers_are_called_good_as_bad_and_no_question_is_answered_twice() -> None:
    assert sum(row["label"] for row in JUDGED) == 148
    assert len({row["prompt"] for row in JUDGED}) == len(JUDGED)
    openings = {row["completion"].split(" ")[0] for row in JUDGED}
    assert openings == {opening.split(" ")[0] for opening in (*COMMITTED, *HEDGING)}


@pytest.mark.parametrize("row", GLOSSARY, ids=lambda row: row["text"].split(".")[0])
def test_an_entry_of_the_glossary_names_a_word_and_explains_it(row: dict[str, Any]) -> None:
    assert list(row) == ["text"]
    word, _, explained = row["text"].partition(". ")
    assert 1 <= len(word.split()) <= 3
    assert 15 <= len(explained.split()) <= 50
    assert explained[0].isupper()
    assert explained.endswith(".")
    assert "  " not in row["text"]


def test_the_glossary_is_in_alphabetical_order_without_a_word_twice() -> None:
    entries = [row["text"].split(". ")[0].lower() for row in GLOSSARY]
    assert len(entries) == len(set(entries))
    assert entries == sorted(entries)


def test_a_sum_has_its_result_and_is_asked_once() -> None:
    terms = [tuple(map(int, re.findall("[0-9]+", row["prompt"]))) for row in SUMS]
    assert [sum(pair) for pair in terms] == [row["answer"] for row in SUMS]
    assert len(set(terms)) == len(SUMS)
    assert all(len(pair) == 2 and min(pair) >= 1 and max(pair) <= 15 for pair in terms)
    asked = {re.sub("[0-9]+", "N", row["prompt"]) for row in SUMS}
    assert len(asked) == 6
