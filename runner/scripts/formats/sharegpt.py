"""`{"conversations": [{"from": "human" | "gpt" | "system", "value": ...}, ...], "system"?: ...}`"""

from __future__ import annotations

from typing import Any

from runner.scripts.conversation import Conversation, message, parse_message
from runner.scripts.rows import RowError, list_field, text_field

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


def parse(row: dict[str, Any]) -> Conversation:
    """An empty `system` beside the turns is the same as none. Raises RowError."""
    turns = [
        parse_message(value, number, "from", "value", _ROLES)
        for number, value in enumerate(list_field(row, "conversations"), 1)
    ]
    system = text_field(row, "system", required=False)
    if system:
        if turns[0]["role"] == "system":
            raise RowError('there is a system turn and "system" beside it')
        turns.insert(0, message("system", system))
    return Conversation(messages=tuple(turns))
