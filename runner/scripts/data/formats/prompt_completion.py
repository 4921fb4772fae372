"""`{"prompt", "completion"}`, texts or (as in TRL) lists of turns; `system` or `tools` beside."""

from __future__ import annotations

from typing import Any

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.files.rows import RowError, kind_of, list_field, text_field
from runner.scripts.data.turns import Turns, behind_prompt, parse_turns

FIELDS = ("prompt", "completion", "system", "tools")


def parse(row: dict[str, Any]) -> Conversation:
    """Texts become a question and its answer. Only the completion is trained on.

    A completion that begins with the prompt does not repeat it. Raises RowError.
    """
    prompt = text_or_turns(row, "prompt", "user")
    return behind_prompt(text_or_turns(row, "completion", "assistant"), prompt, row)


def text_or_turns(row: dict[str, Any], key: str, role: str) -> Turns:
    """The turns under `key`; a text is one of `role`. Raises RowError."""
    if isinstance(row.get(key), list):
        return parse_turns(list_field(row, key))
    if key in row and not isinstance(row[key], str):
        raise RowError(f'"{key}" is {kind_of(row[key])}, not a text or a list of turns')
    content = text_field(row, key)
    assert content is not None
    return Turns((message(role, content),))
