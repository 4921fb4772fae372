"""`{"instruction": ..., "output": ...}`, with or without `input`, `system` and `history`."""

from __future__ import annotations

from typing import Any

from runner.scripts.data.conversation import Conversation, Message, message
from runner.scripts.data.files.rows import RowError, checked_text, kind_of, text_field

FIELDS = ("instruction", "input", "output", "system", "history")
_SIDES = ("user", "assistant")  # of a pair of the history that is an object


def parse(row: dict[str, Any]) -> Conversation:
    """`input` follows `instruction` on a line of its own, as in LLaMA Factory.

    An empty `input` or `system` is the same as none: a column has no other way to say so.
    `history` is a list of pairs, or of objects `{"user", "assistant"}`; its answers are trained on
    too. Raises RowError.
    """
    instruction = text_field(row, "instruction")
    extra = text_field(row, "input", required=False)
    output = text_field(row, "output")
    system = text_field(row, "system", required=False)
    assert instruction is not None
    assert output is not None
    turns = [message("system", system)] if system else []
    turns += _history(row.get("history"))
    asked = "\n".join(part for part in (instruction, extra) if part)
    return Conversation(messages=(*turns, message("user", asked), message("assistant", output)))


def _history(value: Any) -> list[Message]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f'"history" is {kind_of(value)}, not a list')
    turns = []
    for number, pair in enumerate(value, 1):
        parts = [pair[role] for role in _SIDES] if _is_object_of_two(pair) else pair
        if not isinstance(parts, list) or len(parts) != 2:
            raise RowError(f'entry {number} of "history" is no pair of question and answer')
        question, answer = (checked_text(part, f'entry {number} of "history"') for part in parts)
        turns += [message("user", question), message("assistant", answer)]
    return turns


def _is_object_of_two(pair: Any) -> bool:
    return isinstance(pair, dict) and pair.keys() == set(_SIDES)
