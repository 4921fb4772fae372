"""New questions and answers in the manner of seed rows, and of rows made before."""

from __future__ import annotations

from runner.asking.talk import Talk, shown_json, text_of, texts_schema
from runner.synthesis.kinds import Material, about, one_row
from runner.synthesis.rows import Made
from runner.synthesis.settings import Settings

WAVE = 16
SEEDS_ARE_KNOWN = True
_KEYS = ("question", "answer")
rows_a_task = one_row


def tasks(settings: Settings, material: Material) -> int | None:
    """As many as are wanted."""
    return None


def make(task: int, talk: Talk[Settings], material: Material) -> list[Made]:
    """One row."""
    own = talk.settings.own
    seeds = [
        material.seeds[index] for index in talk.some(own["examples"], len(material.seeds), "seeds")
    ]
    made = [
        material.made[index] for index in talk.some(own["own_examples"], len(material.made), "made")
    ]
    examples = [(each.question, each.answer) for each in seeds]
    examples += [(each.question, each.answer) for each in made]
    shown = "\n\n".join(f"Question: {asked}\nAnswer: {said}" for asked, said in examples)
    prompt = (
        f"Here are questions and their answers:\n\n{shown}\n\n"
        "Write one more question and its answer, in the same manner and about the same subject. "
        "The question must ask something else than those above, and the answer must be right."
        f"{about(talk.settings)}\n\n{shown_json(_KEYS)}"
    )
    question, answer = talk.json(
        prompt,
        "row",
        texts_schema(*_KEYS),
        lambda said: (text_of(said, "question"), text_of(said, "answer")),
    )
    return [Made(question, answer, seeds[0].place)]
