"""Write tokenizer.model: the pieces of a tokenizer in SentencePiece's own form.

llama.cpp's converter reads nothing else for Gemma 2 and Phi-3. The form is a protocol buffer of few
fields (sentencepiece_model.proto): numbers and lengths in 7-bit groups, everything else bytes.
Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from runner.scripts.tokenizers.tokenizer_file import UNKNOWN, Vocabulary

_BPE = 2  # TrainerSpec.ModelType
_VARINT, _BYTES, _FLOAT = 0, 2, 5  # wire types


def sentencepiece_model(
    vocabulary: Vocabulary, scores: Sequence[float], *, prefix: bool, ids: dict[str, int | None]
) -> bytes:
    """`ids`: the ids of `bos`, `eos` and `pad`, where there are any."""
    rows = zip(vocabulary.tokens, scores, vocabulary.types, strict=True)
    pieces = b"".join(
        _bytes(1, _bytes(1, token.encode()) + _float(2, score) + _integer(3, kind))
        for token, score, kind in rows
    )
    unknown = vocabulary.types.index(UNKNOWN) if UNKNOWN in vocabulary.types else 0
    trainer = _integer(3, _BPE) + _integer(4, len(vocabulary.tokens)) + _integer(35, 1)
    named = {40: unknown, 41: ids.get("bos"), 42: ids.get("eos"), 43: ids.get("pad")}
    trainer += b"".join(
        _integer(field, -1 if value is None else value) for field, value in named.items()
    )
    normalizer = _bytes(1, b"identity") + _integer(3, int(prefix)) + _integer(4, 0) + _integer(5, 1)
    return pieces + _bytes(2, trainer) + _bytes(3, normalizer)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | _FLOAT) + struct.pack("<f", value)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number as its 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
