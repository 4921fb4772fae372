"""Which system turn a row is trained with."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.convert import read_one
from runner.scripts.data.sides import sides_as_seen
from runner.scripts.data.systems import system_of, without_own

ASKED = (message("user", "Q"), message("assistant", "A"))
OWN = message("system", "Its own.")
SEVERAL = {"system": "one", "system_variants": ["two", "three"], "seed": 42}


def test_without_variants_it_is_the_recipes() -> None:
    def never() -> str:
        raise AssertionError("the content is not looked at")

    assert system_of(never, {"system": "one", "seed": 1}) == "one"
    assert system_of(never, {"system": None, "system_variants": (), "seed": 1}) is None


@given(st.text(), st.integers(0, 2**31))
def test_the_same_row_and_seed_draw_the_same(digest: str, seed: int) -> None:
    settings = SEVERAL | {"seed": seed}
    drawn = system_of(lambda: digest, settings)
    assert drawn in ("one", "two", "three")
    assert drawn == system_of(lambda: digest, dict(settings))


def test_each_is_drawn_about_as_often_and_the_seed_counts() -> None:
    digests = [f"{number:064x}" for number in range(3000)]
    drawn = [system_of(lambda d=digest: d, SEVERAL) for digest in digests]  # type: ignore[misc]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    other = SEVERAL | {"seed": 43}
    again = [system_of(lambda d=digest: d, other) for digest in digests]  # type: ignore[misc]
    assert sum(a != b for a, b in zip(drawn, again, strict=True)) > 1500


def test_a_rows_own_turn_stays_unless_the_recipes_is_for_all() -> None:
    row = Conversation(messages=(OWN, *ASKED, *ASKED), untrained=frozenset({2}))
    assert without_own(row, {}) is row
    assert without_own(row, {"system_for": "missing"}) is row
    bare = without_own(row, {"system_for": "all"})
    assert bare.messages == (*ASKED, *ASKED)
    assert (bare.untrained, bare.answers) == (frozenset({1}), [3])
    plain = Conversation(messages=ASKED)
    assert without_own(plain, {"system_for": "all"}) is plain


def test_rows_are_shown_with_the_system_turn_that_they_are_trained_with() -> None:
    settings = {"system": "BASE", "seed": 1}
    turns = [OWN, *ASKED]
    for format_name, row in (
        ("messages", {"messages": turns}),
        ("preference", {"prompt": turns[:2], "chosen": "A", "rejected": "B"}),
        ("kto", {"prompt": turns[:2], "completion": "A", "label": True}),
        ("prompt", {"prompt": turns[:2], "answer": "A"}),
    ):
        read = read_one(row, format_name)
        own = [side.messages[0] for _, side in sides_as_seen(read, settings)]
        assert own == [OWN] * len(own)
        taken = sides_as_seen(read, settings | {"system_for": "all"})
        for side in [side for _, side in taken]:
            assert [turn["role"] for turn in side.messages].count("system") == 1
            assert side.messages[0] == message("system", "BASE")


def test_a_variant_is_shown_where_prepare_draws_it() -> None:
    rows = [read_one({"instruction": f"Q{n}", "output": "A"}, "alpaca") for n in range(40)]
    shown = [next(iter(sides_as_seen(row, SEVERAL)))[1].messages[0]["content"] for row in rows]
    assert shown == [system_of(row.digest, SEVERAL) for row in rows]
    assert set(shown) == {"one", "two", "three"}
    held_out = SEVERAL | {"system_variants": ()}
    assert {next(iter(sides_as_seen(row, held_out)))[1].messages[0]["content"] for row in rows} == {
        "one"
    }
