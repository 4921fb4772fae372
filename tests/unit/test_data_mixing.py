"""How often rows of several sources are trained on, and what leaks between the two sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.run import _warn_of_split
from runner.rows.prepared import split_warnings
from runner.scripts.data.cleaning.pipeline import Cleaning
from runner.scripts.data.conversation import Conversation, Traits, message
from runner.scripts.data.dividing.division import Division, divide, sums_by_source
from runner.scripts.data.dividing.kinship import content_key, prompt_key, traits_of
from runner.scripts.data.dividing.mixing import limited, mixed, times_of
from runner.scripts.data.dividing.split import Kin, held_out_kin
from runner.scripts.data.files.rows import Place, RowError
from runner.scripts.data.preference import Judged, Pair
from runner.scripts.spec import ScriptError

SEED = 42


def row(question: str, answer: str = "A", source: int = 0, line: int = 1) -> Conversation:
    turns = (message("user", question), message("assistant", answer))
    return Conversation(turns, place=Place(f"{source}.jsonl", line), traits=Traits(source))


def rows_of(*counts: int) -> list[Conversation]:
    """So many distinct rows of each source."""
    return [
        row(f"{source} {number}", source=source, line=number + 1)
        for source, count in enumerate(counts)
        for number in range(count)
    ]


def sources(*settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": f"{number}.jsonl", **each} for number, each in enumerate(settings)]


def contents(rows: Sequence[Conversation]) -> list[str]:
    return [each.digest() for each in rows]


def settings_of(*train: dict[str, Any], **more: Any) -> dict[str, Any]:
    base = {"seed": SEED, "fraction": 0.0, "validation": [], "train": sources(*train)}
    return base | more


def divided(
    train: list[Conversation], settings: dict[str, Any], held: Sequence[Conversation] = ()
) -> Division[Conversation]:
    return divide(train, list(held), settings, Conversation.digest)


# --- how often


@pytest.mark.parametrize(
    ("counts", "given_", "expected"),
    [
        ((10, 10), ({}, {"repeat": 2.5}), (1, Fraction("2.5"))),
        ((100, 10), ({"weight": 1.0}, {"weight": 1.0}), (1, 10)),
        ((100, 10), ({"weight": 3.0}, {"weight": 1.0}), (1, Fraction(10, 3))),
        ((10, 100), ({"weight": 0.9}, {"weight": 0.1}), (90, 1)),
    ],
)
def test_weights_are_shares_and_no_row_is_left_out(
    counts: tuple[int, ...], given_: tuple[dict[str, Any], ...], expected: tuple[Any, ...]
) -> None:
    assert tuple(times_of(counts, sources(*given_))) == expected


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.data())
def test_every_row_is_there_as_often_as_its_source_says(
    counts: list[int], data: st.DataObject
) -> None:
    times = [data.draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.25])) for _ in counts]
    rows = rows_of(*counts)
    mix = mixed(rows, sources(*({"repeat": each} for each in times)), SEED)
    for number, (count, each) in enumerate(zip(counts, times, strict=True)):
        copies = Counter(x.digest() for x in mix if x.traits.source == number)
        assert sum(copies.values()) == round(Fraction(each) * count)
        assert set(copies.values()) <= {int(each), int(each) + 1} - {0}


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_that_of_equal_sources_matters(
    counts: list[int], generator: random.Random
) -> None:
    rows = rows_of(*counts)
    settings = settings_of(*({"weight": 1.0, "limit": 7} for _ in counts), fraction=0.3)
    order = list(range(len(counts)))
    generator.shuffle(order)
    moved = [replace(each, traits=Traits(order[each.traits.source])) for each in rows]
    generator.shuffle(moved)
    before, after = _both(rows, settings), _both(moved, settings)
    assert before == after


def _both(rows: list[Conversation], settings: dict[str, Any]) -> Any:
    """Both sides, or that a source was held out as a whole."""
    try:
        found = divided(rows, settings)
    except ScriptError as error:
        return error.code
    return contents(found.train), contents(found.validation)


def test_a_limit_takes_rows_by_their_hash_and_keeps_them_when_others_go() -> None:
    rows = rows_of(50, 5)
    kept = limited(rows, sources({"limit": 10}, {}), SEED)
    assert Counter(x.traits.source for x in kept) == {0: 10, 1: 5}
    assert [x.place for x in kept] == [x.place for x in rows if x in kept]
    fewer = [x for x in rows if x in kept or x.place.line % 2]
    assert limited(fewer, sources({"limit": 10}, {}), SEED) == kept
    assert limited(rows, sources({"limit": 10}, {}), SEED + 1) != kept
    assert limited(rows, sources({"limit": 50}, {}), SEED) == rows


def test_copies_are_shuffled_among_the_others() -> None:
    mix = mixed(rows_of(30), sources({"repeat": 3.0}), SEED)
    lines = [x.place.line for x in mix]
    assert lines != sorted(lines)
    assert sum(a == b for a, b in pairwise(lines)) < 10
    assert mixed(rows_of(30), sources({"repeat": 3.0}), SEED + 1) != mix


def test_a_source_with_a_weight_and_no_row_left_is_an_error() -> None:
    with pytest.raises(ScriptError) as caught:
        mixed(rows_of(5), sources({"weight": 1.0}, {"weight": 1.0}), SEED)
    assert caught.value.code == "E363"
    assert "1.jsonl" in caught.value.message


def test_a_weight_of_rows_that_cleaning_dropped_says_by_which_steps() -> None:
    """Copies of a row of the other file, and answers that are too short."""
    others = [row(f"{number}", "long enough", 1, number) for number in range(3)]
    copies = [replace(others[0], traits=Traits(2), place=Place("2.jsonl", n)) for n in range(5)]
    short = [row(f"{number}", "A", 2, number) for number in range(6, 8)]
    cleaning = Cleaning({"min_answer_chars": 5, "exact_duplicates": True})
    kept, _ = cleaning.cleaned([*others, *copies, *short])
    settings = settings_of({"weight": 1.0}, {"weight": 1.0}, {"weight": 1.0})
    mix = [*rows_of(1), *kept]
    with pytest.raises(ScriptError) as caught:
        divide(mix, [], settings, Conversation.digest, None, cleaning.dropped_of)
    assert caught.value.code == "E363"
    assert caught.value.message == (
        "2.jsonl has a weight, and no row of it is left to train on; data.clean dropped: "
        "min_answer_chars 2, exact_duplicates 5"
    )
    assert "let data.clean drop less of it" in caught.value.hint
    assert cleaning.dropped_of("1.jsonl") == ""


def test_a_mix_of_more_rows_than_fit_is_an_error() -> None:
    with pytest.raises(ScriptError) as caught:
        mixed(rows_of(50, 1), sources({"weight": 1.0}, {"weight": 1e6}), SEED)
    assert caught.value.code == "E364"


def test_without_settings_rows_keep_the_order_of_the_files() -> None:
    rows = rows_of(20, 20)
    found = divided(rows, settings_of({}, {}, fraction=0.25))
    assert len(found.validation) == 10
    assert [x for x in rows if x in found.train] == found.train
    assert [x for x in rows if x in found.validation] == found.validation


def test_the_mix_is_counted_by_source() -> None:
    found = divided(rows_of(40, 10), settings_of({"limit": 20}, {"repeat": 3.0}, fraction=0.2))
    held = [source["held_out"] for source in found.sources]
    assert sum(held) == 6
    sources = np.array([row.traits.source for row in found.train])
    told = found.measures(sums_by_source(sources, [5] * len(sources)))
    trained = [20 - held[0], 3 * (10 - held[1])]
    assert told == {
        "sources": [
            {
                "file": "0.jsonl",
                "read": 40,
                "taken": 20,
                "held_out": held[0],
                "trained": trained[0],
                "tokens": 5 * trained[0],
                "share": round(trained[0] / sum(trained), 4),
            },
            {
                "file": "1.jsonl",
                "read": 10,
                "taken": 10,
                "held_out": held[1],
                "trained": trained[1],
                "tokens": 5 * trained[1],
                "share": round(trained[1] / sum(trained), 4),
            },
        ]
    }


# --- what is the same


def test_case_and_white_space_make_no_other_row() -> None:
    assert content_key(row("What  is\tLoRA?", "a  Part")) == content_key(
        row("what is lora? ", "A part")
    )
    assert content_key(row("Q", "A")) != content_key(row("Q", "B"))
    assert prompt_key(row("Q", "A")) == prompt_key(row("q ", "B"))
    text = Conversation(text="Some  Text")
    assert prompt_key(text) == content_key(Conversation(text="some text"))


def test_the_beginning_of_a_conversation_is_of_its_prompt() -> None:
    short = row("Hi", "Hello")
    turns = (*short.messages, message("user", "2 + 2?"), message("assistant", "4"))
    assert prompt_key(Conversation(turns)) == prompt_key(short)
    context = Conversation(turns, untrained=frozenset({1}))
    assert prompt_key(context) != prompt_key(short)


def test_a_conversation_that_begins_with_an_answer_has_no_prompt() -> None:
    one, other = (
        Conversation((message("system", "S"), message("assistant", text))) for text in ("A", "B")
    )
    assert prompt_key(one) != prompt_key(other)


def test_compared_rows_have_the_prompt_of_their_sides() -> None:
    pair = Pair(row("Q", "A"), row("Q", "B"))
    turned = Pair(row("Q", "B"), row("Q", "A"))
    assert prompt_key(pair) == prompt_key(turned) == prompt_key(Judged(row("q", "C"), True))
    assert content_key(pair) != content_key(turned)


def test_columns_are_found_by_the_names_in_the_file() -> None:
    wanted = {"group_by": "id", "stratify": "question"}
    values = {"id": 7, "instruction": "Q"}
    found = traits_of(values, 2, {"instruction": "question"}, wanted)
    assert found == Traits(2, "7", "Q")
    assert traits_of({"id": "7", "question": "Q"}, 2, None, wanted) == found
    for missing in ({"question": "Q"}, {"id": None, "question": "Q"}):
        with pytest.raises(RowError, match=r'"id" is missing, which data\.validation\.group_by'):
            traits_of(missing, 0, None, wanted)


# --- leaks

TRAIN = [row("Q1", line=1), row("Q2", line=2), row("Q3", line=3)]
HELD = [row("q2 ", "a", 9, 4), row("Q3", "another", 9, 5)]


def leaky(on_leak: str) -> dict[str, Any]:
    files = [{"name": "9.jsonl"}]
    return settings_of({}, validation=files, split={"on_leak": on_leak})


def test_a_leak_is_an_error_that_names_both_places() -> None:
    with pytest.raises(ScriptError) as caught:
        divided(TRAIN, leaky("error"), HELD)
    assert caught.value.code == "E362"
    assert caught.value.message.splitlines() == [
        "0.jsonl:2: the row is held out too, at 9.jsonl:4",
        "0.jsonl:3: the prompt is held out too, at 9.jsonl:5",
    ]


def test_a_leak_is_left_out_of_training_and_counted() -> None:
    found = divided(TRAIN, leaky("drop"), HELD)
    assert (found.train, found.validation) == (TRAIN[:1], HELD)
    assert found.measures({})["leaks"]["dropped"] == {"prompt": 1, "row": 1}
    assert divided(TRAIN, leaky("allow"), HELD).train == TRAIN


def test_nothing_left_to_train_on_is_an_error() -> None:
    with pytest.raises(ScriptError) as caught:
        divided(TRAIN[1:], leaky("drop"), HELD)
    assert caught.value.code == "E360"


def test_many_leaks_are_not_all_shown() -> None:
    rows = [row(f"Q{number}", line=number) for number in range(15)]
    with pytest.raises(ScriptError) as caught:
        divided(rows, leaky("error"), rows)
    assert caught.value.message.splitlines()[10:] == ["and 5 more rows"]


@given(st.lists(st.sampled_from(["Q1", "q1 ", "Q2", "Q 3", "Q4", "Q5", "Q6"]), min_size=2))
def test_a_split_by_prompts_never_leaks(questions: list[str]) -> None:
    rows = [row(question, f"{number}") for number, question in enumerate(questions)]
    settings = settings_of({}, fraction=0.4, split={"stable": True, "on_leak": "error"})
    if len({*_stable_sides(rows)}) < 2:
        with pytest.raises(ScriptError, match=r"no row is (held out|left to train on)"):
            divided(rows, settings)
        return
    found = divided(rows, settings)
    assert len(found.train) + len(found.validation) == len(rows)
    assert not {*map(prompt_key, found.train)} & {*map(prompt_key, found.validation)}


def _stable_sides(rows: Sequence[Conversation]) -> list[bool]:
    return held_out_kin([Kin(prompt_key(each)) for each in rows], 0.4, SEED, stable=True)


def test_a_plain_split_parts_the_answers_to_one_prompt_and_the_check_finds_it() -> None:
    rows = [row("Q", str(number), line=number) for number in range(20)]
    with pytest.raises(ScriptError) as caught:
        divided(rows, settings_of({}, fraction=0.5, split={"on_leak": "error"}))
    assert caught.value.code == "E362"


def test_a_stable_split_that_holds_out_nothing_is_an_error() -> None:
    settings = settings_of({}, fraction=0.5, split={"stable": True})
    with pytest.raises(ScriptError) as caught:
        divided([row("Q", str(number)) for number in range(9)], settings)
    assert caught.value.code == "E360"
    assert "the 9 rows are all of one prompt or group" in caught.value.message


@pytest.mark.parametrize("split", [{"group_by": "g"}, {"group_by": "g", "stratify": "topic"}])
def test_one_group_is_not_blamed_on_stable(split: dict[str, Any]) -> None:
    traits = Traits(0, group="one", stratum="t")
    rows = [replace(row(f"Q{number}"), traits=traits) for number in range(9)]
    with pytest.raises(ScriptError) as caught:
        divided(rows, settings_of({}, fraction=0.5, split=split))
    assert caught.value.code == "E360"
    assert "stable" not in caught.value.hint
    assert "group_by" in caught.value.hint


def grouped(*sizes: int) -> list[Conversation]:
    """Groups of so many rows each."""
    return [
        replace(row(f"{group} {number}"), traits=Traits(0, group=str(group)))
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


def test_far_more_held_out_than_asked_for_is_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    split = {"group_by": "g"}
    of_one = settings_of({}, fraction=0.1, split=split)
    found = next(
        division
        for seed in range(100)
        if len((division := divided(grouped(40, *[1] * 10), of_one | {"seed": seed})).validation)
        >= 40
    )
    told = found.measures({})
    assert told["held_out"] == {"rows": len(found.validation), "of": 50, "fraction": 0.1}
    (warning,) = split_warnings(told)
    assert warning.startswith(f"{len(found.validation)} of 50 rows are held out (")
    assert "data.validation.fraction is 0.1" in warning
    _warn_of_split({"stages": [{"name": "prepare", "measures": told}]})
    assert capsys.readouterr().err == f"warning: {warning}\n"
    even = divided(grouped(*[1] * 50), of_one).measures({})
    assert "held_out" not in even
    assert not list(split_warnings(even))
    few = divided(grouped(1, 1, 1), of_one)  # one is held out of any: more than a tenth
    assert (len(few.validation), few.excess) == (1, {})


def warned(train: list[Conversation], held: Sequence[Conversation] = (), **more: Any) -> list[str]:
    """What is said of the split of these rows."""
    settings = settings_of({}, near=True, validation=sources({}) if held else [], **more)
    return list(split_warnings(divided(train, settings, held).measures({})))


def test_equal_rows_alone_hold_out_none_which_is_a_warning() -> None:
    (warning,) = warned([row("Q")] * 3, fraction=0.5)
    assert warning.startswith("no row is held out, though data.validation.fraction is 0.5")
    assert "(3)" in warning
    assert not warned([row("Q")] * 3, fraction=0.0)
    assert not warned([row("Q"), row("R"), row("R")], fraction=0.5)


def test_held_out_rows_that_are_nearly_trained_on_are_a_warning() -> None:
    """Case and blanks make other rows for a plain split, and the same ones for a reader."""
    rows = [row(f"Q {number}", "Well.", line=2 * number + 1) for number in range(40)]
    copies = [row(f" q  {number}", "WELL.", line=2 * number + 2) for number in range(40)]
    found = divided([*rows, *copies], settings_of({}, near=True, fraction=0.25))
    trained = {content_key(each) for each in found.train}
    straddling = [each for each in found.validation if content_key(each) in trained]
    assert 0 < len(straddling) < len(found.validation)
    (warning,) = split_warnings(found.measures({}))
    assert warning.startswith(f"{len(straddling)} of 20 held-out rows are trained on too")
    assert f"(the first: {straddling[0].place} and " in warning
    assert "on_leak: drop" in warning
    told = divided([*rows, *copies], settings_of({}, fraction=0.25)).measures({})
    assert not list(split_warnings(told)), "nobody asks"


def test_files_to_hold_out_are_compared_with_what_is_trained_on_in_the_end() -> None:
    held = [row("q  1"), row("Q 9")]
    (warning,) = warned([row("Q 1"), row("Q 2")], held)
    assert warning.startswith("1 of 2 held-out rows are trained on too")
    settings = settings_of({}, near=True, validation=sources({}))
    left = divide([row("Q 1"), row("Q 2")], held, settings, Conversation.digest, _sift_of_the_first)
    assert left.near == {}, "cleaning has left it out"


def _sift_of_the_first(train: Sequence[Any], validation: Sequence[Any]) -> list[bool]:
    return [number > 0 for number in range(len(train))]
