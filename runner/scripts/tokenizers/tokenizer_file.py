"""tokenizer.json from a list of tokens: byte-level BPE, or pieces as SentencePiece has them.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.scripts.tokenizers.pre_tokenizers import PreTokenizer, pre_tokenizer_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types
SPACE = "\u2581"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token texts and llama.cpp's type of each, by id; `first` and `last` are put around a text.

    `stripped`: special tokens that swallow the white space on their right.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    first: str | None = None
    last: str | None = None
    stripped: frozenset[str] = frozenset()


def byte_level(
    vocabulary: Vocabulary, merges: Iterable[Sequence[str]], pre: PreTokenizer
) -> dict[str, Any]:
    """A byte-level BPE in the form of the `tokenizers` library."""
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    return _file(
        vocabulary,
        normalizer=None,
        pre_tokenizer=pre_tokenizer_json(pre),
        decoder={**decoder, "use_regex": True},
        ignore_merges=pre.ignore_merges,
        merges=[list(pair) for pair in merges],
    )


def pieces(vocabulary: Vocabulary, scores: Sequence[float], *, prefix: bool) -> dict[str, Any]:
    """Pieces with byte fallback, as Llama 2, Mistral, Gemma and Phi-3 have them.

    `prefix`: a text, also one that follows a special token, begins with a space of its own.
    """
    unknown = [
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind == UNKNOWN
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if prefix else [])]
    return _file(
        vocabulary,
        normalizer={"type": "Sequence", "normalizers": [prepend, replace] if prefix else [replace]},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
        unknown=unknown[0] if unknown else None,
        byte_fallback=True,
        merges=merges_of(vocabulary, scores),
    )


def merges_of(vocabulary: Vocabulary, scores: Sequence[float]) -> list[list[str]]:
    """Every way to put a piece together from two others, best score first.

    SentencePiece merges any two neighbours that together are a piece, the best score first; a BPE
    that lists all of them in that order does the same.
    """
    ids = {
        token: index
        for index, token in enumerate(vocabulary.tokens)
        if vocabulary.types[index] in (NORMAL, USER_DEFINED)
    }
    found = [
        (-scores[index], index, ids[token[:cut]], ids[token[cut:]])
        for token, index in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    tokens = vocabulary.tokens
    return [[tokens[left], tokens[right]] for _, _, left, right in sorted(found)]


def _file(
    vocabulary: Vocabulary,
    *,
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    merges: list[list[str]],
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(index, vocabulary)
            for index, kind in enumerate(vocabulary.types)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _post_processor(vocabulary),
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": byte_fallback,
            "byte_fallback": byte_fallback,
            "ignore_merges": ignore_merges,
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
            "merges": merges,
        },
    }


def _added_token(index: int, vocabulary: Vocabulary) -> dict[str, Any]:
    text = vocabulary.tokens[index]
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": text in vocabulary.stripped,
        "normalized": False,
        "special": vocabulary.types[index] != USER_DEFINED,
    }


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Put `first` and `last` around plain text."""
    first = [_special(vocabulary.first)] if vocabulary.first is not None else []
    last = [_special(vocabulary.last)] if vocabulary.last is not None else []
    if not first and not last:
        return None
    single = [*first, {"Sequence": {"id": "A", "type_id": 0}}, *last]
    pair = [*single, *first, {"Sequence": {"id": "B", "type_id": 1}}, *last]
    names = [part["SpecialToken"]["id"] for part in (*first, *last)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {
            name: {"id": name, "ids": [vocabulary.tokens.index(name)], "tokens": [name]}
            for name in names
        },
    }


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}
