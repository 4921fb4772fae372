"""Whether an answer ends, leaks its template or goes round in circles."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runner.scripts.evaluation.asked import GENERAL, References
from runner.scripts.evaluation.form import Reply, form_of, leaks, repeated_share
from runner.scripts.evaluation.held_out import row_examples, row_id
from runner.scripts.evaluation.intervals import FEW
from runner.scripts.training.token_rows import IGNORED, Row

NONE: frozenset[int] = frozenset()


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([], 0.0),
        ([1, 2, 3], 0.0),  # shorter than a run of four
        (list(range(20)), 0.0),
        ([1] * 10, 6 / 7),  # seven runs, all the same
        ([1, 2, 3, 4] * 3, 5 / 9),  # nine runs, four distinct
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),
    ],
)
def test_the_share_of_repeated_runs_of_four(ids: list[int], share: float) -> None:
    assert repeated_share(ids) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "Yes.<|im_end|>",
        "Yes. <|eot_id|>",
        "Yes.</s>",
        "[INST] And then?",
        "Yes.<end_of_turn>",
        "Yes.<\uff5cUser\uff5c>",
        "Yes.\n### Response:\nNo.",
        "Yes.\nuser\nAnd then?",
    ],
)
def test_a_marker_of_a_template_is_a_leak(text: str) -> None:
    assert leaks(Reply(text, (5, 6), ended=True), NONE)


@pytest.mark.parametrize(
    "text", ["The user is right.", "a < b | c > d", "# Response", "user: me", "<b>bold</b>", ""]
)
def test_plain_text_is_none(text: str) -> None:
    assert not leaks(Reply(text, (5, 6), ended=True), NONE)


def test_a_special_token_is_a_leak_though_its_text_is_left_out() -> None:
    assert leaks(Reply("Yes.", (5, 1, 6), ended=True), frozenset({1}))


@pytest.mark.parametrize(
    ("reply", "sound"),
    [
        (Reply("Yes.", (5, 6, 7), ended=True), True),
        (Reply("Yes.", (5, 6, 7), ended=False), False),
        (Reply("Yes.", (5, 1, 7), ended=True), False),
        (Reply("ha" * 9, (5,) * 9, ended=True), False),
    ],
)
def test_sound_is_all_three(reply: Reply, sound: bool) -> None:
    found = form_of(reply, frozenset({1}))
    assert found["sound"] is sound
    assert found["length"] == len(reply.ids)


class Letters:
    """A tokenizer that writes every id as a letter."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(ord("a") + each) for each in ids)


def row(ids: list[int], trained: list[int]) -> Row:
    tokens = np.array(ids)
    labels = np.where(np.array(trained, bool), tokens, IGNORED)
    return Row(tokens, labels, np.arange(len(ids)), np.ones(len(ids), np.int64))


def test_the_reference_is_the_first_answer_behind_the_prompt() -> None:
    rows = [
        row([1, 2, 3, 4], [0, 0, 1, 1]),
        row([1, 5, 6, 7, 8, 9], [0, 0, 1, 0, 0, 1]),  # two answers
    ]
    found = References(rows, Letters())
    assert found.of([1, 2]) == "de"
    assert found.of([1, 5]) == "g"
    assert found.of([1, 5, 6, 7, 8]) == "j"
    assert found.of([9]) == ""
    assert found.of([1, 2, 3, 4, 5, 6, 7, 8]) == ""


def test_what_stands_behind_the_answer_is_no_part_of_a_row() -> None:
    usual = row_id(row([1, 2, 3, 4], [0, 0, 1, 1]))
    assert row_id(row([1, 2, 3, 4, 5], [0, 0, 1, 1, 0])) == usual
    assert row_id(row([1, 2, 3, 4, 5], [0, 0, 1, 1, 1])) != usual
    assert row_id(row([1, 2, 3, 4], [0, 1, 1, 1])) != usual
    assert row_id(row([1, 9, 3, 4], [0, 0, 1, 1])) != usual


def test_a_row_without_anything_to_predict_is_no_example() -> None:
    rows = [row([1, 2], [0, 0]), row([1, 2], [0, 1])]
    (found,) = row_examples(rows, {"base": [(0.0, 0), (2.5, 1)]}, Letters())
    assert (found.results, found.tokens) == ({"base": {"loss": 2.5}}, 1)
    assert found.shown == {"prompt": "b", "expected": "c"}


# --- our own texts


def test_there_are_enough_general_prompts_that_do_not_give_the_answer_away() -> None:
    prompts = [json.loads(line) for line in GENERAL.read_text().splitlines()]
    asked = [prompt["question"] for prompt in prompts]
    assert len(set(asked)) == len(asked) >= FEW
    for prompt in prompts:
        for expected in prompt["expect"]:
            assert expected.casefold() not in prompt["question"].casefold()


def test_there_are_enough_neutral_passages() -> None:
    passages = (GENERAL.parent / "neutral.txt").read_text().strip().split("\n\n")
    assert len(set(passages)) == len(passages) >= FEW
    assert all("\n" not in passage and passage.isascii() for passage in passages)
