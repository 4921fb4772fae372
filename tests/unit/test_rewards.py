"""What answers earn, by property; what a trace says of a training by rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from runner.recipe.schema import load_schema
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.formats import EVERY
from runner.scripts.data.prompted import Prompted, check_prompted
from runner.scripts.data.writing import CannotHold, as_rows
from runner.scripts.rewards.functions import (
    JSON_KINDS,
    PARAMETERS,
    REWARDS,
    earned,
    is_number,
    last_number,
    total,
)
from runner.scripts.rewards.prompt_rows import read_prompts
from runner.scripts.rewards.scoring import names_of, score
from runner.scripts.rewards.signs import PATIENCE, check_signal, signs_of
from runner.scripts.spec import ScriptError

TEXTS = st.text(max_size=60)
WORDS = st.text("abcxyz", min_size=1, max_size=6)
NUMBERS = st.integers(-(10**30), 10**30) | st.decimals(-1000, 1000, places=3)
# each reward with parameters, so that every one is tried
ALL: list[dict[str, Any]] = [
    {"name": "exact-answer"},
    {"name": "number-answer", "tolerance": 0.5},
    {"name": "matches", "pattern": "[a-z]+"},
    {"name": "json-fields", "fields": {"a": "number"}},
    {"name": "length", "max_words": 3},
    {"name": "contains", "words": ["so", "then"]},
    {"name": "no-repetition"},
]


def one(answer: str, reference: str | None = None, **reward: Any) -> float:
    return earned(answer, reference, [reward])[0]


def test_every_reward_is_tried_and_named_in_the_schema() -> None:
    assert {each["name"] for each in ALL} == set(REWARDS)
    said = load_schema()["properties"]["train"]["properties"]["rewards"]["items"]["properties"]
    assert said["name"]["enum"] == list(REWARDS)
    assert set(said) == {"name", "weight", *PARAMETERS}
    kinds = said["fields"]["additionalProperties"]["enum"]
    assert kinds == list(JSON_KINDS)


@given(TEXTS, TEXTS)
def test_a_reward_is_between_0_and_1_whatever_is_said_and_the_same_twice(
    answer: str, reference: str
) -> None:
    found = earned(answer, reference, ALL)
    assert all(0 <= each <= 1 for each in found)
    assert found == earned(answer, reference, ALL)


@given(st.text(" \t\n", max_size=5))
def test_silence_earns_nothing(nothing: str) -> None:
    assert earned(nothing, "", ALL) == [0.0] * len(ALL)


@given(WORDS, st.sampled_from([str.upper, str.title, lambda text: f"  {text}.", lambda text: text]))
def test_the_right_answer_is_right_however_it_is_set(answer: str, change: Any) -> None:
    assert one(change(answer), answer, name="exact-answer") == 1
    assert one(change(answer + "q"), answer, name="exact-answer") == 0


@given(NUMBERS, st.sampled_from(["{}", "It is {}.", "1 + 2 = {}", "${}", "({})", "**{}**"]))
def test_the_last_number_counts_exactly(number: Any, frame: str) -> None:
    said = frame.format(f"{number:f}" if not isinstance(number, int) else number)
    assert last_number(said) == number
    assert one(said, str(number), name="number-answer") == 1
    assert one(said, str(number + 1), name="number-answer") == 0


@given(st.integers(0, 10**15))
def test_thousands_may_have_commas(number: int) -> None:
    assert one(f"{number:,}", str(number), name="number-answer") == 1


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("v2", None),
        ("5-3", "3"),
        ("none", None),
        ("-7", "-7"),
        ("3.", "3"),
        ("1,2", "2"),
        ("2x", None),
    ],
)
def test_what_is_a_number(answer: str, number: str | None) -> None:
    found = last_number(answer)
    assert (None if found is None else str(found)) == number


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 5))
def test_tolerance_is_a_distance(one_number: float, other: float, tolerance: float) -> None:
    said, right = f"{one_number:.3f}", f"{other:.3f}"
    near = abs(round(float(said) * 1000) - round(float(right) * 1000)) <= tolerance * 1000
    assert one(said, right, name="number-answer", tolerance=tolerance) == near


def test_a_pattern_says_what_of_an_answer_is_read() -> None:
    asked: dict[str, Any] = {"name": "number-answer", "pattern": "Answer: ([^ ]*)"}
    assert one("Answer: 3 or Answer: 4 (not 9)", "4", **asked) == 1
    assert one("4", "4", **asked) == 0


@given(st.lists(WORDS, min_size=1, max_size=12), st.integers(1, 12), st.integers(1, 12))
def test_length_counts_words(said: list[str], least: int, most: int) -> None:
    found = one(" ".join(said), name="length", min_words=least, max_words=most)
    assert found == (least <= len(said) <= most)


@given(st.lists(WORDS, min_size=1, unique=True), st.data())
def test_contains_is_the_part_of_the_words(wanted: list[str], data: Any) -> None:
    said = data.draw(st.lists(st.sampled_from(wanted), unique=True, min_size=1))
    found = one(", ".join(said).upper(), name="contains", words=wanted)
    assert found == pytest.approx(len(said) / len(wanted))


def test_a_part_of_a_word_is_not_the_word() -> None:
    assert one("because", name="contains", words=["cause"]) == 0
    assert one("a.b", name="contains", words=["a.b", "axb"]) == 0.5


@given(st.dictionaries(WORDS, st.sampled_from(list(JSON_KINDS)), max_size=4))
def test_json_has_the_fields_and_no_others(fields: dict[str, str]) -> None:
    values = {
        "string": "s",
        "number": 1.5,
        "integer": 3,
        "boolean": True,
        "array": [],
        "object": {},
    }
    said = {key: values[kind] for key, kind in fields.items()}
    reward: dict[str, Any] = {"name": "json-fields", "fields": fields}
    assert one(json.dumps(said), **reward) == 1
    assert one(json.dumps({**said, "q": 1}), **reward) == 0
    for key in said:
        assert one(json.dumps({**said, key: None}), **reward) == 0
    assert one("x" + json.dumps(said), **reward) == 0


@pytest.mark.parametrize("said", ["[" * 100_000, "{", "1" * 5000, '{"a": true}', "null"])
def test_json_that_is_none_earns_nothing(said: str) -> None:
    assert one(said, name="json-fields", fields={"a": "number"}) == 0


@given(st.lists(WORDS, min_size=4, max_size=8), st.integers(2, 6))
def test_a_loop_is_worth_less_the_longer_it_goes(words: list[str], times: int) -> None:
    once, often, longer = (" ".join(words * n) for n in (1, times, times + 1))
    values = [one(text, name="no-repetition") for text in (once, often, longer)]
    assert values[0] > values[1] > values[2] > 0


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=4), TEXTS, st.floats(-5, 5))
def test_the_reward_is_the_sum_by_weights(rewards: Any, answer: str, weight: float) -> None:
    weighted = [{**each, "weight": weight} for each in rewards]
    parts = earned(answer, "1", weighted)
    assert total(parts, weighted) == pytest.approx(weight * math.fsum(parts))
    assert score(answer, "1", weighted) == (total(parts, weighted), parts)


def test_rewards_of_one_name_are_told_apart() -> None:
    names = [{"name": name} for name in ("length", "matches", "length", "length")]
    assert names_of(names) == ["length", "matches", "length-2", "length-3"]


def test_a_pattern_that_never_ends_is_an_error_and_no_standstill() -> None:
    slow = {"name": "matches", "weight": 1.0, "pattern": "(a+)+b"}
    with pytest.raises(ScriptError) as caught:
        score("a" * 60, None, [slow], limit=0.05)
    assert caught.value.code == "E538"
    assert "(a+)+b" in caught.value.message


# --- rows


def test_a_row_is_a_question_and_its_answer() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    row = EVERY["prompt"]({"prompt": [*turns, {"role": "user", "content": "2 + 2?"}], "answer": 4})
    assert isinstance(row, Prompted)
    check_prompted(row)
    assert (row.answer, row.asked.answers) == ("4", [])
    assert row.answered().answers == [3]
    assert as_rows(row, "prompt", [])[0]["answer"] == "4"
    assert EVERY["prompt"](as_rows(row, "prompt", [])[0]) == row
    assert as_rows(row, "messages", [])[0]["messages"][-1]["content"] == "4"


def test_a_conversation_becomes_a_prompt_and_its_last_answer() -> None:
    read = EVERY["alpaca"]({"instruction": "Q", "output": "A"})
    assert as_rows(read, "prompt", []) == [{"prompt": "Q", "answer": "A"}]  # type: ignore[arg-type]
    asked = EVERY["prompt"]({"prompt": "Q"})
    with pytest.raises(CannotHold):
        as_rows(asked, "alpaca", [])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "answer": " "},
        {"prompt": "Q", "answer": True},
        {"prompt": "Q", "answer": ["a"]},
        {"prompt": " ", "answer": "a"},
        {"prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ],
)
def test_a_row_that_asks_nothing_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RowError) as caught:
        check_prompted(EVERY["prompt"](row))  # type: ignore[arg-type]
    assert caught.value.code == "E357"


@pytest.mark.parametrize(
    ("text", "number"), [("42", True), (" -1,000.5 ", True), ("4 or 5", False)]
)
def test_a_number_is_one_alone(text: str, number: bool) -> None:
    assert is_number(text) is number


SOUND = {
    "input_ids": np.array([1, 2, 3], np.int32),
    "offsets": np.array([0, 2, 3], np.int64),
    "answers": np.frombuffer("é".encode(), np.uint8),
    "answer_offsets": np.array([0, 2, 2], np.int64),
    "answered": np.array([1, 0], np.int8),
}


def test_prompts_are_read_with_their_answers(tmp_path: Path) -> None:
    save_file(SOUND, tmp_path / "t.safetensors")
    found = read_prompts(tmp_path / "t.safetensors")
    assert [(each.ids, each.answer) for each in found] == [([1, 2], "é"), ([3], None)]


@pytest.mark.parametrize(
    "change",
    [
        {"answered": np.array([1], np.int8)},
        {"answer_offsets": np.array([0, 1, 2], np.int64)},
        {"answer_offsets": np.array([0, 2, 3], np.int64)},
        {"offsets": np.array([0, 0, 3], np.int64)},
        {"offsets": np.array([0, 2], np.int64)},
        {"offsets": np.array([1, 2, 3], np.int64)},
    ],
)
def test_damaged_prompts_are_refused(change: Any, tmp_path: Path) -> None:
    save_file(SOUND | change, tmp_path / "t.safetensors")
    with pytest.raises(ScriptError) as caught:
        read_prompts(tmp_path / "t.safetensors")
    assert caught.value.code == "E528"


# --- what a trace says


def lines(count: int, **changed: list[float]) -> list[dict[str, float]]:
    """Steps of a training in which nothing changes but what is given: first and last value."""
    plain = {
        "reward": 0.5,
        "frac_reward_zero_std": 0.25,
        "completions/mean_length": 20.0,
        "completions/clipped_ratio": 0.1,
        "repeated": 0.05,
    }
    found = []
    for number in range(count):
        part = number / (count - 1)
        moved = {key: first + part * (last - first) for key, (first, last) in changed.items()}
        found.append(plain | moved)
    return found


def test_nothing_to_learn_is_said_after_ten_steps_or_at_the_end() -> None:
    alike = [0.0, 0.0]
    dull = lines(PATIENCE, frac_reward_zero_std=[1.0, 1.0], reward=alike)
    for count in range(1, PATIENCE):
        check_signal(dull[:count], 100)
    with pytest.raises(ScriptError) as caught:
        check_signal(dull, 100)
    assert caught.value.code == "E537"
    with pytest.raises(ScriptError):
        check_signal(dull[:4], 4)
    check_signal([*dull[:-1], {**dull[-1], "frac_reward_zero_std": 0.9}], 100)


@pytest.mark.parametrize(
    ("changed", "sign"),
    [
        ({"completions/mean_length": [20, 60]}, "length"),
        ({"completions/clipped_ratio": [0.1, 0.9]}, "cut"),
        ({"repeated": [0.0, 0.6]}, "repetition"),
    ],
)
def test_a_sign_is_seen_where_it_shows_and_only_there(
    changed: dict[str, list[float]], sign: str
) -> None:
    assert list(signs_of(lines(20, **changed))) == [sign]
    falling = {key: list(reversed(ends)) for key, ends in changed.items()}
    assert signs_of(lines(20, **falling)) == {}
    assert signs_of(lines(9, **changed)) == {}  # too few steps to say anything


def test_groups_that_all_earn_the_same_at_the_end_are_a_sign() -> None:
    trace = lines(20)
    assert signs_of(trace) == {}
    ended = [*trace[:15], *({**line, "frac_reward_zero_std": 1.0} for line in trace[15:])]
    assert "last 5 steps" in signs_of(ended)["alike"]
