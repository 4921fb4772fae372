"""`{"messages": [{"role": "system" | "user" | "assistant", "content": ...}, ...]}`"""

from __future__ import annotations

from typing import Any

from runner.scripts.conversation import ROLES, Conversation, Message, parse_message
from runner.scripts.rows import list_field

_ROLES = {role: role for role in ROLES}


def parse(row: dict[str, Any]) -> Conversation:
    """Other keys of the row (ids, sources) are ignored. Raises RowError."""
    return Conversation(messages=tuple(parse_turns(row, "messages")))


def parse_turns(row: dict[str, Any], key: str) -> list[Message]:
    """The list of turns under `key`."""
    return [
        parse_message(value, number, "role", "content", _ROLES)
        for number, value in enumerate(list_field(row, key), 1)
    ]
