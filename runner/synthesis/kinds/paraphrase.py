"""The question of a row in other words; its answer stays."""

from __future__ import annotations

from runner.asking.talk import Talk, shown_json
from runner.synthesis.kinds import Material, about, one_row
from runner.synthesis.rows import Made
from runner.synthesis.settings import Settings

WAVE = 64
SEEDS_ARE_KNOWN = True
rows_a_task = one_row


def tasks(settings: Settings, material: Material) -> int | None:
    """One for each row and variant: first one of each row, then the next."""
    return len(material.seeds) * int(settings.own["variants"])


def make(task: int, talk: Talk[Settings], material: Material) -> list[Made]:
    """One row."""
    seed = material.seeds[task % len(material.seeds)]
    prompt = (
        f"Here is a question, and the answer to it:\n\nQuestion: {seed.question}\n"
        f"Answer: {seed.answer}\n\nAsk the same in other words. The same answer must be right, "
        f"and the question must not say it.{about(talk.settings)}\n\n{shown_json(['question'])}"
    )
    return [Made(talk.field(prompt, "question"), seed.answer, seed.place)]
