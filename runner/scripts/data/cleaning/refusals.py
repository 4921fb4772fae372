"""Answers that refuse by rote: a model that learns from them refuses too much."""

from __future__ import annotations

import re

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import Row, answers_of, wanted_sides
from runner.scripts.data.cleaning.words import folded

_LOOKED_AT = 300  # characters at the beginning of an answer: further on, it is no refusal
_HELP = (
    r"(?:help|assist|comply|do that|answer|provide|fulfill|fulfil|complete|generate|create|write"
    r"|engage|support|discuss|respond|continue|access|browse|give|offer|process|accommodate)"
)
_CANNOT = r"(?:can(?:no|')t|can not|am unable to|'m unable to|am not able to|'m not able to)"
_SORRY = r"(?:i'm sorry|i am sorry|sorry|i apologi[sz]e|my apologies|unfortunately|regrettably)"
_SELF = r"as an? (?:ai|artificial intelligence|large language|language)[a-z ]{0,30}"
_REFUSES = re.compile(
    rf"^(?:{_SORRY}[,.!]? (?:but )?)?(?:{_SELF}, )?i ?{_CANNOT} (?:[a-z]{{1,12}} )?{_HELP}\b"
    rf"|^(?:{_SORRY}[,.!]? (?:but )?)?i must decline\b"
    rf"|\b{_SELF}, i ?(?:{_CANNOT}|do not|don't|must not|won't|will not)\b"
    r"|\bas an ai (?:language )?(?:model|assistant)\b",
    re.ASCII,
)


def without_refusals(row: Row) -> Row | Drop:
    """The row, unless an answer in it begins with a refusal.

    A rejected answer, and one that is called bad, may refuse: that is what is to be learned.
    """
    for side in wanted_sides(row):
        for answer in answers_of(side):
            if is_refusal(answer):
                return Drop("an answer refuses", answer)
    return row


def is_refusal(answer: str) -> bool:
    """Does it begin as answers do that refuse, in English?"""
    start = folded(answer.lstrip()[:_LOOKED_AT]).replace("\u2019", "'")
    return _REFUSES.search(" ".join(start.split())) is not None
