"""Rows of preferences: what they become, and what is refused in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.scripts.data.both_ways import BothWays, Contradictions
from runner.scripts.data.conversation import message
from runner.scripts.data.files.rows import Place, RowError
from runner.scripts.data.formats import COMPARED
from runner.scripts.data.preference import Judged, Pair, check_compared
from runner.scripts.data.writing import as_rows

Q, GOOD, BAD = message("user", "Q"), message("assistant", "good"), message("assistant", "bad")
FIRST = [message("user", "q"), message("assistant", "a")]


def pair(row: dict[str, Any]) -> Pair:
    made = unchecked(row)
    check_compared(made)
    return made


def unchecked(row: dict[str, Any]) -> Pair:
    made = COMPARED["preference"](row)
    assert isinstance(made, Pair)
    return made


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"prompt": [Q], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Q", "chosen": [GOOD], "rejected": "bad"},
        {"chosen": [Q, GOOD], "rejected": [Q, BAD]},
        {"prompt": None, "chosen": [Q, GOOD], "rejected": [Q, BAD], "score": 3},
    ],
)
def test_every_form_becomes_two_conversations(row: dict[str, Any]) -> None:
    made = pair(row)
    assert made.chosen.messages == (Q, GOOD)
    assert made.rejected.messages == (Q, BAD)
    assert made.chosen.answers == made.rejected.answers == [1]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"chosen": [Q, GOOD], "rejected": [Q, BAD]},
    ],
)
def test_a_system_column_stands_before_both_sides(row: dict[str, Any]) -> None:
    told = message("system", "Be brief.")
    made = pair(row | {"system": "Be brief."})
    assert made.chosen.messages == (told, Q, GOOD)
    assert made.rejected.messages == (told, Q, BAD)
    assert made.chosen.answers == [2]
    assert pair(row | {"system": ""}) == pair(row | {"system": None}) == pair(row)
    judged = COMPARED["kto"](
        {"prompt": "Q", "completion": "good", "label": True, "system": "Be brief."}
    )
    assert judged.messages == made.chosen.messages


@pytest.mark.parametrize("prompt", ["Q", [Q]])
def test_a_prompt_that_the_sides_begin_with_is_there_once(prompt: Any) -> None:
    whole = {"prompt": prompt, "chosen": [Q, GOOD], "rejected": [Q, BAD]}
    assert pair(whole) == pair({"prompt": "Q", "chosen": "good", "rejected": "bad"})
    judged = COMPARED["kto"]({"prompt": prompt, "completion": [Q, GOOD], "label": True})
    assert (judged.messages, judged.sides[0][0].answers) == ((Q, GOOD), [1])


def test_a_system_turn_before_the_repeated_prompt_is_there_once_too() -> None:
    told = message("system", "Be brief.")
    own = {"prompt": "Q", "chosen": [told, Q, GOOD], "rejected": [told, Q, BAD]}
    beside = {"prompt": "Q", "chosen": [Q, GOOD], "rejected": [Q, BAD], "system": "Be brief."}
    for row in (own, beside, own | {"system": "Be brief."}):
        made = pair(row)
        assert made.chosen.messages == (told, Q, GOOD)
        assert made.rejected.messages == (told, Q, BAD)
        assert made.chosen.answers == made.rejected.answers == [2]


def test_a_question_that_one_side_repeats_survives_writing() -> None:
    read = unchecked({"chosen": [Q, Q, GOOD], "rejected": [Q, message("user", "again"), BAD]})
    (row,) = as_rows(read, "preference", [])
    assert unchecked(row) == read


def test_only_the_whole_prompt_at_the_beginning_is_no_repetition() -> None:
    other, asked = message("user", "Q "), message("user", "again")
    row = {"prompt": "Q", "chosen": [other, GOOD], "rejected": [GOOD, Q, BAD]}
    made = unchecked(row)
    assert made.chosen.messages == (Q, other, GOOD)
    assert made.rejected.messages == (Q, GOOD, Q, BAD)
    implicit = unchecked({"chosen": [Q, Q, GOOD], "rejected": [Q, asked, BAD]})
    assert implicit.chosen.messages == (Q, Q, GOOD)
    # a side that is the prompt alone has no answer, and stays behind it
    with pytest.raises(RowError, match="does not end with an answer"):
        pair({"prompt": "Q", "chosen": [Q], "rejected": "bad"})


def test_answers_inside_the_prompt_are_not_compared() -> None:
    explicit = pair({"prompt": [*FIRST, Q], "chosen": "good", "rejected": "bad"})
    implicit = pair({"chosen": [*FIRST, Q, GOOD], "rejected": [*FIRST, Q, BAD]})
    assert explicit == implicit
    assert explicit.chosen.answers == [3]


def test_answers_that_begin_alike_are_compared_as_a_whole() -> None:
    more = message("user", "more")
    made = pair({"chosen": [Q, GOOD, more, GOOD], "rejected": [Q, GOOD, more, BAD]})
    # the first answers are equal: they are part of what both continue from
    assert made.chosen.answers == [3]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "a"}, "E333", "are the same"),
        ({"prompt": "Q", "chosen": "a", "rejected": "a \n"}, "E333", "blanks at their ends alone"),
        ({"prompt": "Q", "rejected": "a"}, "E334", '"chosen" is missing'),
        ({"prompt": "Q", "chosen": "a", "rejected": None}, "E334", '"rejected" is missing'),
        ({"prompt": "Q", "chosen": "a", "rejected": " "}, "E334", '"rejected" is empty'),
        ({"prompt": "Q", "chosen": "a", "rejected": [Q]}, "E334", "does not end with an answer"),
        ({"chosen": "a", "rejected": "b"}, "E335", '"prompt" is missing'),
        ({"chosen": [Q, GOOD], "rejected": [message("user", "P"), BAD]}, "E335", "same question"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "E335", "same question"),
        (
            {"prompt": "Q", "chosen": [Q, GOOD], "rejected": [message("user", "P" * 50), BAD]},
            "E335",
            f'turn 2 is the answer in chosen, and "{"P" * 40}…" \\(user\\) in rejected',
        ),
        (
            {"chosen": [Q, Q, GOOD], "rejected": [Q, message("user", "P"), BAD]},
            "E335",
            'turn 2 is "Q" \\(user\\) in chosen, and "P" \\(user\\) in rejected',
        ),
        ({"prompt": " \n", "chosen": "a", "rejected": "b"}, "E322", "the prompt is empty"),
        (
            {"prompt": [*FIRST, message("user", "")], "chosen": "a", "rejected": "b"},
            "E322",
            "the prompt is empty",
        ),
        ({"prompt": "Q", "chosen": 1, "rejected": "b"}, "E322", '"chosen" is a number'),
        (
            {"prompt": [message("system", "s"), Q], "system": "t", "chosen": "a", "rejected": "b"},
            "E322",
            "begins with a system turn of its own",
        ),
        ({"prompt": "Q", "chosen": [], "rejected": "b"}, "E322", '"chosen" is empty'),
    ],
)
def test_a_pair_that_is_none_is_refused(row: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(RowError, match=words) as caught:
        pair(row)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"prompt": "Q", "completion": "a"}, "E337"),
        ({"prompt": "Q", "completion": "a", "label": 1}, "E337"),
        ({"prompt": "Q", "completion": "a", "label": "good"}, "E337"),
        ({"prompt": "Q", "label": True}, "E322"),
        ({"prompt": "Q", "completion": "", "label": True}, "E323"),
        ({"prompt": " ", "completion": "a", "label": True}, "E322"),
    ],
)
def test_a_judgement_that_is_none_is_refused(row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowError) as caught:
        check_compared(COMPARED["kto"](row))
    assert caught.value.code == code


def test_what_is_preferred_both_ways_is_counted_and_found() -> None:
    known = BothWays()
    texts = [("a", "b"), ("c", "d"), ("a", "b"), ("e", "f"), ("d", "c"), ("b", "a"), ("b", "a")]
    for chosen, rejected in texts:
        known.add(pair({"prompt": "Q", "chosen": chosen, "rejected": rejected}))
    assert known.found() == Contradictions(count=2, first=0, second=5)


def test_other_prompts_and_one_way_are_no_contradiction() -> None:
    known = BothWays()
    for prompt, chosen, rejected in (("Q", "a", "b"), ("P", "b", "a"), ("Q", "a", "b")):
        known.add(pair({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    assert known.found() is None


def test_an_answer_that_is_judged_good_and_bad_is_found() -> None:
    known = BothWays()
    for completion, label in (("x", True), ("a", False), ("b", True), ("a", True)):
        made = COMPARED["kto"]({"prompt": "Q", "completion": completion, "label": label})
        assert isinstance(made, Judged)
        known.add(made)
    assert known.found() == Contradictions(count=1, first=1, second=3)


def test_a_judgement_keeps_its_label_and_place() -> None:
    made = COMPARED["kto"]({"prompt": "Q", "completion": "bad", "label": False})
    assert isinstance(made, Judged)
    placed = made.at(Place("f", 3))
    assert placed.sides == ((placed.answered, False),)
    assert str(placed.answered.place) == "f:3"
    assert placed.digest() == made.digest()
    assert made.digest() != Judged(made.answered, True).digest()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("format_name", COMPARED)
@given(
    row=st.dictionaries(
        st.sampled_from(["prompt", "chosen", "rejected", "completion", "label"]), _JSON
    )
)
def test_any_object_is_comparable_or_a_row_error(format_name: str, row: dict[str, Any]) -> None:
    try:
        made = COMPARED[format_name](row)
        check_compared(made)
    except RowError:
        return
    assert all(side.answers for side, _ in made.sides)


@pytest.mark.parametrize(
    ("label", "shown"),
    [("good", ' ("good")'), (1, " (1)"), (None, ""), ("x" * 99, f' ("{"x" * 39})')],
)
def test_a_label_that_is_none_is_shown(label: Any, shown: str) -> None:
    with pytest.raises(RowError) as caught:
        COMPARED["kto"]({"prompt": "Q", "completion": "A", "label": label})
    assert caught.value.message.endswith(f"{shown}, not true or false")
