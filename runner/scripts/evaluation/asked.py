"""Everything that base and tuned model are asked, and what of their answers goes into examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.data.questions import Question, questions_of, samples_of
from runner.scripts.data.tokens.template_rendering import rendered_ids
from runner.scripts.evaluation.examples import Example, cut, question_id
from runner.scripts.evaluation.form import Reply, form_of
from runner.scripts.spec import Spec
from runner.scripts.training.token_rows import IGNORED, Row

GENERAL = Path(__file__).with_name("general.jsonl")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question; `kind` as an example has it; `expected`: what it is compared with, or ""."""

    kind: str
    question: Question
    expected: str


def asked_of(
    spec: Spec, tokenizer: Any, template: str, good: Sequence[Row]
) -> tuple[list[Asked], list[Asked]]:
    """Questions and held-out prompts; and the general prompts, which are asked apart, so that the
    batches of the others are the same with and without them.

    `good`: held-out rows whose answers are what a prompt's answer is compared with.
    """
    settings = spec.hashed

    def ids_of(messages: list[dict[str, str]]) -> list[int]:
        return prompt_ids(tokenizer, template, messages)

    def read(path: Path, name: str) -> list[Question]:
        return questions_of(path, name, ids_of, settings["system"])

    questions = []
    if settings["questions"] is not None:
        questions = read(spec.inputs["questions"], settings["questions"])
    samples = samples_of(spec.inputs["prompts"], settings["samples"])
    general = read(GENERAL, GENERAL.name) if settings.get("forgetting") else []
    known = References(good, tokenizer) if settings.get("metrics") and samples else None
    return [
        *(Asked("question", each, " ".join(each.expect)) for each in questions),
        *(Asked("sample", each, known.of(each.ids) if known else "") for each in samples),
    ], [Asked("general", each, " ".join(each.expect)) for each in general]


class References:
    """The held-out rows by the tokens that they begin with."""

    def __init__(self, rows: Sequence[Row], tokenizer: Any) -> None:
        self._rows = rows
        self._tokenizer = tokenizer

    def of(self, prompt: Sequence[int]) -> str:
        """The answer of the first row that begins with `prompt`; "" when none does."""
        begin = len(prompt)
        wanted = np.array(prompt, np.int64)
        for row in self._rows:
            if not np.array_equal(row.input_ids[:begin], wanted):
                continue
            labels = row.labels[begin:]
            end = next((at for at, label in enumerate(labels) if label == IGNORED), len(labels))
            answer = labels[:end].tolist()
            return str(self._tokenizer.decode(answer, skip_special_tokens=True)).strip()
        return ""


def prompt_ids(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> list[int]:
    """What the model sees, generation prompt included. Raises RowError E326, and Runaway."""
    return rendered_ids(tokenizer, template, messages, generate=True)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that no answer should have before its end."""
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {n for n, token in added.items() if token.special}


def answer_examples(
    asked: Sequence[Asked],
    replies: Mapping[str, Sequence[Reply]],
    settings: Mapping[str, Any],
    special: frozenset[int],
) -> list[Example]:
    """One a question: the answers, whether they are right, and their form."""
    return [
        Example(
            each.kind,
            question_id(settings["system"], each.question.messages, [each.expected]),
            {"prompt": cut(each.question.text), "expected": cut(each.expected)},
            {
                name: _results(each, said[number], special, bool(settings.get("metrics")))
                for name, said in replies.items()
            },
        )
        for number, each in enumerate(asked)
    ]


def _results(
    asked: Asked, reply: Reply, special: frozenset[int], metrics: bool
) -> dict[str, str | float | bool]:
    found: dict[str, str | float | bool] = {"answer": reply.text, **form_of(reply, special)}
    if asked.question.expect:
        found["hit"] = asked.question.is_hit(reply.text)
    if metrics and asked.expected:
        from runner.scripts.evaluation.text_metrics import text_metrics

        found |= text_metrics(reply.text, asked.expected)
    return found
