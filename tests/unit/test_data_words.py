"""Which tokenizers begin a part at every word, and that each word is asked for once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.scripts.data.tokens import words
from runner.scripts.data.tokens.words import Words, begins_at_words
from runner.scripts.tokenizers.pre_tokenizers import PRE_TOKENIZERS, pre_tokenizer_json

BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False}
DIGITS: dict[str, Any] = {"type": "Digits", "individual_digits": True}
SPLIT = pre_tokenizer_json(PRE_TOKENIZERS["qwen2"])["pretokenizers"][0]


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [*steps]}


@pytest.mark.parametrize(
    "step",
    [BYTES, sequence(DIGITS, BYTES), sequence(SPLIT, {**BYTES, "use_regex": False}), SPLIT],
)
def test_expressions_that_are_known_begin_at_words(step: dict[str, Any]) -> None:
    assert begins_at_words(json.dumps({"pre_tokenizer": step}))


@pytest.mark.parametrize(
    "step",
    [
        None,
        {**BYTES, "use_regex": False},
        {**SPLIT, "behavior": "MergedWithNext"},
        {**SPLIT, "invert": True},
        {**SPLIT, "pattern": {"Regex": "\\S+ \\S+"}},
        {**SPLIT, "pattern": {"String": " "}},
        sequence(DIGITS),
        sequence(BYTES, {"type": "Punctuation", "behavior": "MergedWithNext"}),
        sequence(SPLIT, {**SPLIT, "pattern": {"Regex": "[^,]+"}}),
        {"type": "Metaspace"},
    ],
)
def test_what_is_not_known_does_not(step: dict[str, Any] | None) -> None:
    assert not begins_at_words(json.dumps({"pre_tokenizer": step}))


class Letters:
    """An encoder whose ids are the letters."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.asked.append(set(texts))
        return [[ord(letter) for letter in text] for text in texts]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("the cat, the Dog. Été ещё", ["the", "cat,", "the", "Dog.", "Été", "ещё"]),
        ("a  b\n c\t d\xa0 e", ["a  b\n c\t d\xa0 e"]),
        ("a 1 -b (c 'd _e 你 f", ["a 1 -b (c 'd _e 你 f"]),
        ("1 a -x b 2) c", ["1", "a -x", "b 2)", "c"]),
        (" a b", [" a", "b"]),
        ("", [""]),
    ],
)
def test_a_text_is_cut_at_single_spaces_before_letters(text: str, cut: list[str]) -> None:
    letters = Letters()
    assert Words(letters.encode).encode_all([text]) == [[ord(letter) for letter in text]]
    first, *others = cut
    assert letters.asked == [{first, *(f" {other}" for other in others)}]


def test_each_word_is_asked_for_once() -> None:
    letters = Letters()
    known = Words(letters.encode)
    assert known.encode_all(["a cat", "a dog a cat"]) == letters.encode(["a cat", "a dog a cat"])
    assert known.encode_all(["cat a"]) == letters.encode(["cat a"])
    assert letters.asked[0] == {"a", " cat", " dog", " a"}
    assert letters.asked[2] == {"cat"}
    assert known.encode_all([]) == []


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_ROOM", 200)
    letters = Letters()
    known = Words(letters.encode)
    for number in range(50):
        texts = [f"word{number} number{number} word", "x" * number + " y"]
        assert known.encode_all(texts) == letters.encode(texts)
        assert len(known._begun) + len(known._behind) < 20
