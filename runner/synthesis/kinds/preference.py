"""Pairs of a better and a worse answer to the question of a row.

By a judge: best and worst of several answers, shown in an order of chance, since judges prefer
what comes first. Or without one: a strong model's answer against a weak model's.
"""

from __future__ import annotations

import string
from typing import Any

from runner.asking.talk import Talk, Unusable, object_schema, shown_json
from runner.synthesis.kinds import Material, about, one_for_each_seed, one_row
from runner.synthesis.rows import Made, words_of
from runner.synthesis.settings import Settings
from runner.synthesis.sources import Seed

WAVE = 64
SEEDS_ARE_KNOWN = False
tasks = one_for_each_seed
rows_a_task = one_row


def make(task: int, talk: Talk[Settings], material: Material) -> list[Made]:
    """One pair."""
    seed = material.seeds[task]
    prompt = f"{seed.question}{about(talk.settings)}"
    if talk.settings.weak is not None:
        chosen = talk.text(prompt, "strong")
        rejected = talk.text(prompt, "weak", talk.settings.weak)
    else:
        count = talk.settings.own["candidates"]
        answers = [talk.text(prompt, f"candidate {number}") for number in range(count)]
        chosen, rejected = _judged(seed, answers, talk)
    if words_of(chosen) == words_of(rejected):
        raise Unusable("both answers are the same", chosen)
    return [Made(seed.question, chosen, seed.place, rejected, is_of_a_known_question=True)]


def _judged(seed: Seed, answers: list[str], talk: Talk[Settings]) -> tuple[str, str]:
    different = list({tuple(words_of(answer)): answer for answer in reversed(answers)}.values())
    if len(different) == 1:
        raise Unusable("both answers are the same", different[0])
    shown = [different[index] for index in talk.some(len(different), len(different), "order")]
    names = list(string.ascii_uppercase[: len(shown)])
    listed = "\n\n".join(
        f"Answer {name}:\n{answer}" for name, answer in zip(names, shown, strict=True)
    )
    prompt = (
        f"Here is a question, and {len(shown)} answers to it.\n\nQuestion: {seed.question}\n\n"
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
