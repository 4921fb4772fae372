"""Is an answer sound in its form: does it end, leak no template, and not go round in circles?

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

GRAM = 4  # tokens in a row, whose return is counted
LOOP = 0.5  # part of them that are repeated, from which on an answer is a loop
# What chat templates put between turns. A model that writes it goes on with the transcript.
MARKERS = re.compile(
    r"<\|[\w-]{1,30}\|>"  # <|im_start|>, <|eot_id|>, <|user|>
    r"|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<\uff5c[^\uff5c]{1,40}\uff5c>"
    r"|^### (?:Instruction|Response|Input):"
    r"|^(?:user|assistant|system)\s*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: its text, its tokens before the end token, and whether that one came."""

    text: str
    ids: tuple[int, ...]
    ended: bool


def repeated_share(ids: Sequence[int]) -> float:
    """Part of the runs of GRAM tokens that were there before: 0 without any, towards 1 in a loop.

    (1 minus distinct by all: "seq-rep-4" of S. Welleck et al., Neural Text Generation with
    Unlikelihood Training, ICLR 2020.)
    """
    grams = [tuple(ids[at : at + GRAM]) for at in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def leaks(reply: Reply, special: frozenset[int]) -> bool:
    """Does the answer hold a special token of the tokenizer, or a template's marker as text?"""
    return any(token in special for token in reply.ids) or bool(MARKERS.search(reply.text))


def form_of(reply: Reply, special: frozenset[int]) -> dict[str, float | bool | int]:
    """Measures of one answer. `special`: ids that no answer should have."""
    share, leak = repeated_share(reply.ids), leaks(reply, special)
    return {
        "ended": reply.ended,
        "leak": leak,
        "repeated": share,
        "sound": reply.ended and not leak and share < LOOP,
        "length": len(reply.ids),
    }
