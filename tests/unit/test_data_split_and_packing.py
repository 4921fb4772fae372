"""Which rows are held out, and which documents share a pack."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.packing import pack
from runner.scripts.data.rows import Place
from runner.scripts.data.split import held_out

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
    assert packs == sorted(sorted(members) for members in packs)


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
