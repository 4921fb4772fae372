"""Which tokenizers cut texts at special tokens, and that every part is encoded once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.scripts.data.tokens.segments import Segments, special_tokens

BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False}


def token(text: str, number: int, **more: bool) -> dict[str, Any]:
    plain = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    return {"id": number, "content": text, "special": True, **plain, **more}


def told(added: list[dict[str, Any]], **more: Any) -> str:
    whole = {"normalizer": None, "pre_tokenizer": BYTES, "model": {"type": "BPE"}}
    return json.dumps({"added_tokens": added, **whole, **more})


def test_special_tokens_of_a_byte_level_tokenizer_are_where_texts_are_cut() -> None:
    assert special_tokens(told([token("<a>", 1), token("<b>", 2)])) == {"<a>": 1, "<b>": 2}


@pytest.mark.parametrize(
    "steps",
    [
        {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "Digits"}, BYTES]},
        {"type": "Split"},
    ],
)
def test_steps_that_look_at_one_piece_at_a_time_allow_it(steps: dict[str, Any]) -> None:
    assert special_tokens(told([token("<a>", 1)], pre_tokenizer=steps))


@pytest.mark.parametrize("how", ["normalized", "lstrip", "rstrip", "single_word"])
def test_a_token_that_takes_of_its_neighbours_forbids_it(how: str) -> None:
    assert special_tokens(told([token("<a>", 1), token("<b>", 2, **{how: True})])) == {}


@pytest.mark.parametrize(
    "more",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}]}},
        {"normalizer": {"type": "Prepend", "prepend": "_"}},
        {"normalizer": {"type": "Sequence", "normalizers": []}},
        {"model": {"type": "Unigram"}},
    ],
)
def test_what_may_look_at_the_beginning_of_a_text_forbids_it(more: dict[str, Any]) -> None:
    assert special_tokens(told([token("<a>", 1)], **more)) == {}


def letters(asked: list[list[str]]) -> Any:
    def encode(texts: list[str]) -> list[list[int]]:
        asked.append(texts)
        return [[ord(letter) for letter in text] for text in texts]

    return encode


def test_each_part_is_asked_for_once() -> None:
    asked: list[list[str]] = []
    segments = Segments({"<a>": 1, "<ab>": 2}, letters(asked))
    assert segments.encode_all(["<a>x<ab>y", "<a>x", ""]) == [[1, 120, 2, 121], [1, 120], []]
    assert segments.encode_all(["y<a>xx"]) == [[121, 1, 120, 120]]
    assert asked == [["x", "y"], ["xx"]]


def test_the_longer_of_two_tokens_that_begin_alike_is_found() -> None:
    assert Segments({"<": 1, "<|": 2}, letters([])).encode_all(["<|<"]) == [[2, 1]]


def test_long_parts_are_not_remembered() -> None:
    asked: list[list[str]] = []
    segments = Segments({"<a>": 1}, letters(asked))
    for _ in range(2):
        segments.encode_all(["<a>" + 100 * "x"])
    assert len(asked) == 2


def test_what_is_given_may_be_changed() -> None:
    segments = Segments({"<a>": 1}, letters([]))
    segments.encode_all(["<a>x"])[0].append(9)
    assert segments.encode_all(["<a>x"]) == [[1, 120]]
