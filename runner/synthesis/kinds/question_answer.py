"""Questions that a part of a document answers, with the answers."""

from __future__ import annotations

from typing import Any

from runner.asking.talk import Talk, Unusable, object_schema, text_of, texts_schema
from runner.synthesis.kinds import Material, about
from runner.synthesis.rows import Made
from runner.synthesis.settings import Settings

WAVE = 64
SEEDS_ARE_KNOWN = False


def tasks(settings: Settings, material: Material) -> int | None:
    """One for each part and round."""
    return len(material.parts) * int(settings.own["rounds"])


def rows_a_task(settings: Settings) -> int:
    """What is asked for."""
    return int(settings.own["per_chunk"])


def make(task: int, talk: Talk[Settings], material: Material) -> list[Made]:
    """Pairs that the model finds in one part."""
    part = material.parts[task % len(material.parts)]
    count = rows_a_task(talk.settings)
    many = "one question" if count == 1 else f"{count} different questions"
    prompt = (
        f"Here is a part of a text:\n\n---\n{part.text}\n---\n\n"
        f"Write {many} that this text answers, each with its answer. Say nothing that the text "
        "does not say. A question must make sense to somebody who does not see the text, so do "
        f'not write "the text" in it.{about(talk.settings)}\n\n'
        'Answer with JSON alone, in this form: {"pairs": [{"question": "...", "answer": "..."}]}'
    )
    pairs = {"type": "array", "items": texts_schema("question", "answer")}
    found = talk.json(prompt, "pairs", object_schema({"pairs": pairs}), _pairs)
    return [Made(question, answer, part.place) for question, answer in found[:count]]


def _pairs(said: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs that are whole; a list without one is of no use."""
    found = []
    for pair in said["pairs"]:
        try:
            found.append((text_of(pair, "question"), text_of(pair, "answer")))
        except (Unusable, LookupError, TypeError, AttributeError):
            continue
    if not found:
        raise Unusable("JSON of another shape")
    return found
