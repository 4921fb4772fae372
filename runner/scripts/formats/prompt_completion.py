"""`{"prompt": ..., "completion": ...}`, each a text or (as in TRL) a list of turns."""

from __future__ import annotations

from typing import Any

from runner.scripts.conversation import Conversation, Message, message
from runner.scripts.formats.messages import parse_turns
from runner.scripts.rows import RowError, kind_of, text_field


def parse(row: dict[str, Any]) -> Conversation:
    """Texts become a question and its answer. Only the completion is trained on."""
    prompt = _turns(row, "prompt", "user")
    completion = _turns(row, "completion", "assistant")
    untrained = frozenset(index for index, turn in enumerate(prompt) if turn["role"] == "assistant")
    return Conversation(messages=(*prompt, *completion), untrained=untrained)


def _turns(row: dict[str, Any], key: str, role: str) -> list[Message]:
    if isinstance(row.get(key), list):
        return parse_turns(row, key)
    if key in row and not isinstance(row[key], str):
        raise RowError(f'"{key}" is {kind_of(row[key])}, not a text or a list of turns')
    content = text_field(row, key)
    assert content is not None
    return [message(role, content)]
