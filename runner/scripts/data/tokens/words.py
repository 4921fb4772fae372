"""The ids of texts by their words, each of which is asked for once.

A byte-level tokenizer takes a text apart before it looks for tokens, and most begin a part at every
space before a word. What lies between two such spaces has the same ids in every text. Which
tokenizers these are is read from tokenizer.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from runner.scripts.data.tokens.segments import Encode
from runner.scripts.tokenizers.pre_tokenizers import DIGITS, WORD_BY_WORD

# Letters that every version of Unicode calls so. What is before the space is one, or of ASCII.
_LETTERS = "A-Za-zÀ-ÖØ-öø-ÿЁА-яё"
_cut = re.compile(f" (?=[{_LETTERS}])(?<=[!-~{_LETTERS}] )").split
_ROOM = 1 << 20  # characters that are remembered, a word as so many more:
_EACH = 16


class Words:
    """Encodes texts by `encode`, word by word."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._begun: dict[str, list[int]] = {}  # what a text begins with
        self._behind: dict[str, list[int]] = {}  # what stands behind a space, by what follows that
        self._held = 0

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        cut = [_cut(text) for text in texts]
        try:
            return [self._joined(words) for words in cut]
        except KeyError:
            self._learn(cut)
        return [self._joined(words) for words in cut]

    def _joined(self, words: list[str]) -> list[int]:
        first, *others = words
        known = self._behind
        return [*self._begun[first], *chain.from_iterable([known[word] for word in others])]

    def _learn(self, cut: Sequence[Sequence[str]]) -> None:
        """All words of these texts, in place of all others where there is no room for more."""
        if self._held > _ROOM:
            self._begun, self._behind, self._held = {}, {}, 0
        begun = {words[0] for words in cut if words[0] not in self._begun}
        behind = {word for words in cut for word in words[1:] if word not in self._behind}
        asked = [*begun, *(f" {word}" for word in behind)]
        found = self._encode(asked)
        self._begun.update(zip(begun, found[: len(begun)], strict=True))
        self._behind.update(zip(behind, found[len(begun) :], strict=True))
        self._held += sum(map(len, asked)) + _EACH * len(asked)


def begins_at_words(tokenizer_json: str) -> bool:
    """Is every space before a word, behind what is no space, where a part begins?"""
    first = json.loads(tokenizer_json)["pre_tokenizer"] or {"type": ""}
    steps = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    return any(map(_cuts, steps)) and all(_cuts(step) or _is_of_digits(step) for step in steps)


def _cuts(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":  # whose own expression is GPT-2's
        return bool(step.get("use_regex", True))
    return _expression(step) in WORD_BY_WORD


def _is_of_digits(step: dict[str, Any]) -> bool:
    """Or does it nothing but write bytes as characters?"""
    return step["type"] in ("Digits", "ByteLevel") or _expression(step) in DIGITS


def _expression(step: dict[str, Any]) -> str:
    """What a Split isolates; "" for one that does something else."""
    plain = step["type"] == "Split" and step.get("behavior") == "Isolated"
    return str(step["pattern"].get("Regex", "")) if plain and not step.get("invert") else ""
