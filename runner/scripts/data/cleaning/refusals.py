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
_HELPING = (
    r"(?:helping|assisting|complying|doing that|answering|providing|fulfilling|completing"
    r"|generating|creating|writing|engaging|supporting|discussing|responding|continuing|sharing"
    r"|giving|offering|with (?:that|this))"
)
_CANNOT = (
    r"(?:can(?:no|')t|can not|am unable to|'m unable to|am not able to|'m not able to"
    r"|won't be able to|will not be able to|would not be able to)"
)
_UNEASY = r"(?:(?:'m|am) not comfortable|(?:don't|do not) feel comfortable)"
_SORRY = (
    r"(?:i'm sorry|i am sorry|sorry|i apologi[sz]e|my apologies|unfortunately|regrettably"
    r"|i'm afraid|i am afraid)"
)
_SELF = r"as an? (?:ai|artificial intelligence|large language|language)[a-z ]{0,30}"
_ENGLISH = re.compile(
    rf"^(?:{_SORRY}[,.!]? (?:but )?)?(?:{_SELF}, )?i ?{_CANNOT} (?:[a-z]{{1,12}} )?{_HELP}\b"
    rf"|^(?:{_SORRY}[,.!]? (?:but )?)?i ?{_UNEASY} (?:with )?(?:[a-z]{{1,12}} )?{_HELPING}\b"
    rf"|^(?:{_SORRY}[,.!]? (?:but )?)?i must decline\b"
    rf"|\b{_SELF}, i ?(?:{_CANNOT}|do not|don't|must not|won't|will not)\b"
    r"|\bas an ai (?:language )?(?:model|assistant)\b",
    re.ASCII,
)
_WORD = "[a-zäöüß]{1,14}"
_GERMAN = re.compile(
    r"^(?:(?:es )?tut mir leid|entschuldigung|leider)?[,.!]?(?: ?aber)? ?(?:dabei |damit |das )?"
    rf"(?:ich kann|kann ich|ich darf|darf ich)(?: {_WORD}){{0,4}} nicht(?: {_WORD}){{0,2}} "
    r"(?:helfen|weiterhelfen|behilflich|unterstützen|beantworten|nachkommen|erfüllen)\b"
    r"|^als (?:eine? )?(?:ki|ki-[a-zäöü]{4,16}|sprachmodell|künstliche intelligenz) "
    rf"(?:kann|darf|habe) ich(?: {_WORD}){{0,6}} (?:nicht|keine?[nmrs]?)\b",
    re.ASCII,
)
_MOT = "[a-zàâçéèêëîïôûùœ]{1,14}"
_FRENCH = re.compile(
    r"^(?:(?:je suis )?(?:désolée?|navrée?)|malheureusement|je regrette)?[,.!]?(?: ?mais)? ?"
    r"je ne (?:peux(?: malheureusement)? pas|puis|suis pas en mesure de|suis pas autorisée? à) "
    rf"(?:{_MOT} ){{0,3}}(?:[a-z]')?(?:aider|assister|répondre|fournir|donner|générer|satisfaire)"
    r"(?![a-zàâçéèêëîïôûùœ])"
    r"|^en tant qu(?:e |')(?:ia|intelligence artificielle|assistante? ia|modèle de langage), "
    r"je ne\b",
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
    """Does it begin as answers do that refuse, in English, German or French?"""
    start = " ".join(folded(answer.lstrip()[:_LOOKED_AT]).replace("\u2019", "'").split())
    return any(each.search(start) is not None for each in (_ENGLISH, _GERMAN, _FRENCH))
