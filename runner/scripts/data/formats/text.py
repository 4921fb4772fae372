"""`{"text": ...}`: plain text without turns; every token is trained on."""

from __future__ import annotations

from typing import Any

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.files.rows import text_field

FIELDS = ("text",)


def parse(row: dict[str, Any]) -> Conversation:
    """Raises RowError."""
    return Conversation(text=text_field(row, "text"))
