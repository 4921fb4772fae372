"""`{"messages": [{"role": ..., "content": ..., "name"?, "weight"?, ...}, ...], "tools"?: [...]}`"""

from __future__ import annotations

from typing import Any

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.files.rows import list_field
from runner.scripts.data.turns import parse_tools, parse_turns

FIELDS = ("messages", "tools")


def parse(row: dict[str, Any]) -> Conversation:
    """Other keys of the row (ids, sources) are ignored. Raises RowError."""
    return parse_turns(list_field(row, "messages")).conversation(parse_tools(row))
