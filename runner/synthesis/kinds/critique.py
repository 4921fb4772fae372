"""The answer of a row, criticised by the model and rewritten by it."""

from __future__ import annotations

from runner.asking.talk import Talk, Unusable, shown_json
from runner.synthesis.kinds import Material, about, one_for_each_seed, one_row
from runner.synthesis.rows import Made, words_of
from runner.synthesis.settings import Settings

WAVE = 64
SEEDS_ARE_KNOWN = False
tasks = one_for_each_seed
rows_a_task = one_row


def make(task: int, talk: Talk[Settings], material: Material) -> list[Made]:
    """One row, or one pair."""
    seed = material.seeds[task]
    answer = seed.answer
    for number in range(talk.settings.own["rounds"]):
        answer = _rewritten(seed.question, answer, number, talk)
    if words_of(answer) == words_of(seed.answer):
        raise Unusable("the answer stayed as it was", answer)
    rejected = seed.answer if talk.settings.own["pairs"] else None
    return [Made(seed.question, answer, seed.place, rejected, is_of_a_known_question=True)]


def _rewritten(question: str, answer: str, number: int, talk: Talk[Settings]) -> str:
    shown = f"Question: {question}\n\nAnswer: {answer}"
    critique = talk.field(
        f"{shown}\n\nWhat is wrong with this answer, and what is missing? Say it in a few "
        f"sentences.{about(talk.settings)}\n\n{shown_json(['critique'])}",
        "critique",
        f"critique {number}",
    )
    return talk.field(
        f"{shown}\n\nCritique: {critique}\n\nWrite a better answer to the question, which the "
        f"critique no longer holds of. Do not mention the critique.{about(talk.settings)}\n\n"
        f"{shown_json(['answer'])}",
        "answer",
        f"answer {number}",
    )
