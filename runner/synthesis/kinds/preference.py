"""Pairs of a better and a worse answer to the question of a row, or to one that a text answers.

By a judge: best and worst of several answers, shown in an order of chance, since judges prefer
what comes first. Or without one: a strong model's answer against a weak model's.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from runner.asking.talk import Talk, Unusable, object_schema, shown_json
from runner.synthesis.kinds import Material, about, one_row
from runner.synthesis.rows import Made, words_of
from runner.synthesis.settings import Settings

WAVE = 64
SEEDS_ARE_KNOWN = False
rows_a_task = one_row


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question; of one that was made from a part of a document, that part as prompts show it."""

    question: str
    place: str
    shown: str = ""


def tasks(settings: Settings, material: Material) -> int | None:
    """One for each row, then one for each part of a document and round."""
    return len(material.seeds) + len(material.parts) * int(settings.own["rounds"])


def make(task: int, talk: Talk[Settings], material: Material) -> list[Made]:
    """One pair."""
    asked = _asked(task, talk, material)
    how = "Answer this question by what the text says: " if asked.shown else ""
    prompt = f"{asked.shown}{how}{asked.question}{about(talk.settings)}"
    if talk.settings.weak is not None:
        chosen = talk.text(prompt, "strong")
        rejected = talk.text(prompt, "weak", talk.settings.weak)
    else:
        count = talk.settings.own["candidates"]
        answers = [talk.text(prompt, f"candidate {number}") for number in range(count)]
        chosen, rejected = _judged(asked, answers, talk)
    if words_of(chosen) == words_of(rejected):
        raise Unusable("both answers are the same", chosen)
    known = not asked.shown
    return [Made(asked.question, chosen, asked.place, rejected, is_of_a_known_question=known)]


def _asked(task: int, talk: Talk[Settings], material: Material) -> _Asked:
    """The question of a row, or one that the model finds in a part. Raises Unusable."""
    if task < len(material.seeds):
        seed = material.seeds[task]
        return _Asked(seed.question, seed.place)
    part = material.parts[(task - len(material.seeds)) % len(material.parts)]
    shown = f"Here is a part of a text:\n\n---\n{part.text}\n---\n\n"
    prompt = (
        f"{shown}Write one question that this text answers. It must make sense to somebody who "
        f'does not see the text, so do not write "the text" in it.{about(talk.settings)}\n\n'
        f"{shown_json(['question'])}"
    )
    return _Asked(talk.field(prompt, "question"), part.place, shown)


def _judged(asked: _Asked, answers: list[str], talk: Talk[Settings]) -> tuple[str, str]:
    different = list({tuple(words_of(answer)): answer for answer in reversed(answers)}.values())
    if len(different) == 1:
        raise Unusable("both answers are the same", different[0])
    shown = [different[index] for index in talk.some(len(different), len(different), "order")]
    names = list(string.ascii_uppercase[: len(shown)])
    listed = "\n\n".join(
        f"Answer {name}:\n{answer}" for name, answer in zip(names, shown, strict=True)
    )
    prompt = (
        f"{asked.shown}Here is a question, and {len(shown)} answers to it.\n\n"
        f"Question: {asked.question}\n\n"
        f"{listed}\n\nWhich answer is the best, and which is the worst? An answer is good when it "
        f"is right, helpful and no longer than it must be.{about(talk.settings)}\n\n"
        f"{shown_json(['best', 'worst'])}, each one of the letters {', '.join(names)}."
    )
    letter = {"type": "string", "enum": names}
    schema = object_schema({"best": letter, "worst": letter})

    def both(said: dict[str, Any]) -> tuple[str, str]:
        best, worst = (names.index(str(said[key]).strip().upper()) for key in ("best", "worst"))
        if best == worst:
            raise Unusable("the judge names one answer best and worst")
        return shown[best], shown[worst]

    def check(said: dict[str, Any]) -> tuple[str, str]:
        try:
            return both(said)
        except ValueError:
            raise Unusable("the judge names an answer that is none") from None

    return talk.json(prompt, "judge", schema, check, talk.settings.judge)
