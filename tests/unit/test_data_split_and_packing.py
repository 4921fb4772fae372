"""Which rows are held out, and which documents share a pack."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.dividing.split import Kin, held_out, held_out_kin, units_of
from runner.scripts.data.files.rows import Place
from runner.scripts.data.tokens.packing import pack

_DIGESTS = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=40)
_FRACTION = st.floats(0, 0.99)


@given(_DIGESTS, _FRACTION, st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_side_of_a_row_depends_on_its_content_alone(
    digests: list[str], fraction: float, seed: int, generator: random.Random
) -> None:
    sides = dict(zip(digests, held_out(digests, fraction, seed), strict=True))
    shuffled = digests.copy()
    generator.shuffle(shuffled)
    assert held_out(shuffled, fraction, seed) == [sides[digest] for digest in shuffled]


@given(_DIGESTS, _FRACTION, st.integers(0, 99))
def test_something_is_always_left_to_train_on(
    digests: list[str], fraction: float, seed: int
) -> None:
    out = held_out(digests, fraction, seed)
    assert not all(out)
    if fraction == 0 or len(set(digests)) == 1:
        assert not any(out)
    else:
        assert any(out)


def test_the_part_of_distinct_rows_is_exact() -> None:
    digests = [str(number) for number in range(1000)]
    for fraction, count in ((0.1, 100), (0.25, 250), (0.0004, 1), (0.5, 500)):
        assert sum(held_out(digests, fraction, 42)) == count
    assert held_out(digests, 0.1, 42) != held_out(digests, 0.1, 43)


def test_a_row_that_is_added_moves_few_others() -> None:
    digests = [str(number) for number in range(1000)]
    before = held_out(digests, 0.1, 42)
    after = held_out([*digests, "new"], 0.1, 42)[:-1]
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 1


# --- rows that belong together

_KIN = st.lists(
    st.builds(
        Kin,
        st.sampled_from("abcdefghijklmnop"),
        st.none() | st.sampled_from(["g1", "g2", "g3", "g4", "g5", "g6"]),
        st.none(),
    ),
    min_size=1,
    max_size=40,
)
_STRATIFIED = st.lists(
    st.builds(Kin, st.sampled_from("abcdefghijklmnop"), st.none(), st.sampled_from("xyz")),
    min_size=1,
    max_size=40,
)
_PROMPTS = st.lists(st.text("abcdefgh", min_size=1, max_size=3).map(Kin), min_size=1, max_size=30)


@given(_PROMPTS, _PROMPTS, _FRACTION, st.integers(0, 99))
def test_rows_that_are_added_move_no_other(
    rows: list[Kin], added: list[Kin], fraction: float, seed: int
) -> None:
    before = held_out_kin(rows, fraction, seed, stable=True)
    after = held_out_kin([*added, *rows], fraction, seed, stable=True)
    assert after[len(added) :] == before


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), min_size=1, max_size=30),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(10, 19)), max_size=30),
    _FRACTION,
)
def test_rows_that_are_added_to_groups_move_no_other(
    rows: list[tuple[str, int]], added: list[tuple[str, int]], fraction: float
) -> None:
    """As long as no added prompt ties two groups together: here each is of one group."""
    kin = [Kin(f"{group}{number}", group) for group, number in rows]
    more = [Kin(f"{group}{number}", group) for group, number in added]
    before = held_out_kin(kin, fraction, 1, stable=True)
    assert held_out_kin([*more, *kin], fraction, 1, stable=True)[len(more) :] == before


@given(_STRATIFIED, st.lists(st.sampled_from("qrstu").map(Kin), max_size=9), _FRACTION)
def test_a_stratum_that_is_added_moves_no_row_of_the_others(
    rows: list[Kin], added: list[Kin], fraction: float
) -> None:
    new = [Kin(row.prompt, None, "new") for row in added]
    for stable in (False, True):
        before = held_out_kin(rows, fraction, 1, stable=stable)
        assert held_out_kin([*rows, *new], fraction, 1, stable=stable)[: len(rows)] == before


@given(_KIN | _STRATIFIED, _FRACTION, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_rows_never_matters_and_those_that_belong_together_stay_so(
    rows: list[Kin], fraction: float, stable: bool, generator: random.Random
) -> None:
    sides = held_out_kin(rows, fraction, 7, stable=stable)
    for named in ("prompt", "group"):
        by_name: dict[str, set[bool]] = {}
        for row, out in zip(rows, sides, strict=True):
            if getattr(row, named) is not None:
                by_name.setdefault(getattr(row, named), set()).add(out)
        assert all(len(found) == 1 for found in by_name.values()), named
    order = list(range(len(rows)))
    generator.shuffle(order)
    moved = held_out_kin([rows[index] for index in order], fraction, 7, stable=stable)
    assert moved == [sides[index] for index in order]


@given(_STRATIFIED, st.floats(0.01, 0.99), st.booleans())
def test_a_stratum_of_two_prompts_is_on_both_sides_and_one_of_one_is_trained_on(
    rows: list[Kin], fraction: float, stable: bool
) -> None:
    own = [Kin(f"{row.stratum}{row.prompt}", None, row.stratum) for row in rows]
    sides = held_out_kin(own, fraction, 3, stable=stable)
    for stratum in "xyz":
        members = {row.prompt for row in own if row.stratum == stratum}
        found = {out for row, out in zip(own, sides, strict=True) if row.stratum == stratum}
        assert found == (set() if not members else {False} if len(members) == 1 else {False, True})


def test_the_share_is_met_of_each_stratum_and_on_average_where_the_split_is_stable() -> None:
    rows = [Kin(f"{number}", None, "many" if number % 10 else "few") for number in range(2000)]
    exact = held_out_kin(rows, 0.2, 42, stable=False)
    of = {
        name: [out for row, out in zip(rows, exact, strict=True) if row.stratum == name]
        for name in ("many", "few")
    }
    assert {name: sum(found) for name, found in of.items()} == {"many": 360, "few": 40}
    stable = held_out_kin(rows, 0.2, 42, stable=True)
    assert 320 < sum(stable) < 480
    assert stable != held_out_kin(rows, 0.2, 43, stable=True)


def test_a_prompt_in_two_groups_makes_them_one() -> None:
    rows = [Kin("a", "one"), Kin("b", "two"), Kin("a", "two"), Kin("c", "three")]
    first, second, third, fourth = units_of(rows)
    assert first == second == third != fourth


def test_equal_rows_of_different_formats_are_equal() -> None:
    messages = (message("user", "Q"), message("assistant", "A"))
    here, there = Conversation(messages, place=Place("a", 1)), Conversation(messages)
    assert here.digest() == there.digest()
    assert here.digest() != Conversation(messages, untrained=frozenset({1})).digest()
    assert here.digest() != Conversation(text="Q").digest()


_LENGTHS = st.lists(st.integers(1, 100), max_size=80)


@given(_LENGTHS)
def test_every_document_is_in_one_pack_that_has_room(lengths: list[int]) -> None:
    packs = pack(lengths, 100)
    assert sorted(index for members in packs for index in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in members) <= 100 for members in packs)
    assert list(packs) == sorted(sorted(members) for members in packs)


@given(_LENGTHS)
def test_no_two_packs_would_fit_into_one(lengths: list[int]) -> None:
    """Best fit never opens a pack for a document that an open one had room for."""
    sizes = sorted(sum(lengths[index] for index in members) for members in pack(lengths, 100))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > 100


def test_packing_is_tight_and_quick_for_many_documents() -> None:
    generator = random.Random(1)
    lengths = [generator.randint(10, 2000) for _ in range(50_000)]
    packs = pack(lengths, 2048)
    assert sum(lengths) / (len(packs) * 2048) > 0.98
