"""What base and tuned model are asked, and what counts as a right answer. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.scripts.data.conversation import Message, fill_system, message
from runner.scripts.data.files.rows import (
    MAX_SHOWN,
    Place,
    Problem,
    RowError,
    checked_text,
    read_rows,
)
from runner.scripts.data.tokens.template_limits import Runaway
from runner.scripts.spec import ScriptError


@dataclass(frozen=True, slots=True)
class Question:
    """`text`: the last user turn. `ids`: what the model sees. `expect`: empty when nothing is.

    `messages`: the turns as a client sends them, without a system turn that is filled in.
    """

    text: str
    ids: list[int]
    expect: tuple[str, ...] = ()
    messages: tuple[Message, ...] = field(default=(), compare=False)

    def is_hit(self, answer: str) -> bool:
        """Does every expected string appear in the answer, whatever its case?"""
        folded = answer.casefold()
        return all(wanted.casefold() in folded for wanted in self.expect)


def score(questions: Sequence[Question], answers: Sequence[str]) -> int:
    """How many of the questions were answered right; `answers` may go on beyond them."""
    return sum(
        question.is_hit(answer) for question, answer in zip(questions, answers, strict=False)
    )


def samples_of(path: Path, count: int) -> list[Question]:
    """The first `count` validation prompts of `prepare`'s prompts.jsonl."""
    found: list[Question] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            prompt = json.loads(line)
            if len(found) == count:
                break
            if prompt["kind"] == "validation":
                messages = tuple(prompt["messages"])
                found.append(Question(messages[-1]["content"], prompt["ids"], messages=messages))
    return found


def questions_of(
    path: Path, name: str, to_ids: Callable[[list[Message]], list[int]], system: str | None
) -> list[Question]:
    """Rows `{"question": text, "expect": [text, ...]}` of the file, called `name` in messages.

    Raises ScriptError E521 that names every bad row (ten), and E326 for a chat template that takes
    too much time or memory.
    """
    found: list[Question] = []
    problems: list[Problem] = []
    for item in read_rows(path, name):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        place, row = item
        try:
            text, expect = _read(row)
            turns = [message("user", text)]
            ids = to_ids(list(fill_system(turns, system)))
        except RowError as error:
            problems.append(Problem(place, error))
            continue
        except Runaway as error:  # no other question would fare better
            raise ScriptError(
                f"{place}: {error.message}", hint=error.hint, code=error.code
            ) from None
        found.append(Question(text, ids, expect, tuple(turns)))
    if not found and not problems:
        problems.append(Problem(Place(name, 1), RowError("the file holds no questions")))
    if problems:
        lines = [f"{problem.place}: {problem.error.message}" for problem in problems[:MAX_SHOWN]]
        if len(problems) > MAX_SHOWN:
            lines.append(f"and {len(problems) - MAX_SHOWN} more rows")
        raise ScriptError(
            "\n".join(lines),
            hint='a row is {"question": "text", "expect": ["text", ...]}',
            code="E521",
        )
    return found


def _read(row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    text = checked_text(row.get("question"), '"question"')
    expect = row.get("expect")
    if not isinstance(expect, list) or not expect:
        raise RowError('"expect" is not a list of texts')
    wanted = tuple(checked_text(each, 'a text of "expect"') for each in expect)
    if not all(wanted):
        raise RowError('"expect" holds an empty text, which every answer would contain')
    return text, wanted
