"""The ids of many texts that have much in common: what lies between special tokens, once each.

The prompt of every answer, the text up to its end and the whole conversation begin alike; all
rows have their system prompt and the names of the roles in common. A tokenizer cuts a text at its
special tokens before it does anything else, so the ids of a text are those of what lies between
them, where nothing in it looks over such a cut. Which tokenizers these are is read from
tokenizer.json; others are asked for whole texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

_ALONE = {
    "Split",
    "Digits",
    "Punctuation",
    "ByteLevel",
}  # each looks at one piece of text at a time
_SHORT = 64  # characters of a segment that is remembered
_REMEMBERED = 4096  # segments
Encode = Callable[[list[str]], list[list[int]]]


class Segments:
    """Encodes texts by their segments. `special`: the text of each token that texts are cut at."""

    def __init__(self, special: dict[str, int], encode: Encode) -> None:
        longest_first = sorted(special, key=lambda text: (-len(text), text))
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split
        self._encode = encode
        self._known = {text: [number] for text, number in special.items()} | {"": []}
        self._room = len(self._known) + _REMEMBERED

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        cut = [self._cut(text) for text in texts]
        known = self._known
        new = list(dict.fromkeys(part for parts in cut for part in parts if part not in known))
        found = dict(zip(new, self._encode(new), strict=True)) if new else {}
        made = []
        for parts in cut:
            ids: list[int] = []
            for part in parts:
                ids += found[part] if part in found else known[part]
            made.append(ids)
        self._remember(found)
        return made

    def _remember(self, found: dict[str, list[int]]) -> None:
        for text, ids in found.items():
            if len(text) <= _SHORT and len(self._known) < self._room:
                self._known[text] = ids


def special_tokens(tokenizer_json: str) -> dict[str, int]:
    """Text -> id of the tokens that texts can be cut at; none where ids depend on what is beyond.

    That is so where spaces beside a token belong to it, where a token is found in normalised text
    only, and where the first word of a text is written another way (Metaspace, a prefix space).
    """
    told = json.loads(tokenizer_json)
    added = told["added_tokens"]
    plain = not any(
        token["normalized"] or token["lstrip"] or token["rstrip"] or token["single_word"]
        for token in added
    )
    if not plain or not _looks_at_pieces(told):
        return {}
    return {token["content"]: token["id"] for token in added if token["content"]}


def _looks_at_pieces(told: dict[str, Any]) -> bool:
    normalizer, first = told["normalizer"], told["pre_tokenizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        return False
    if first is None or told["model"].get("type") != "BPE":
        return False
    steps = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    return all(step["type"] in _ALONE and not step.get("add_prefix_space") for step in steps)
