"""`{"prompt", "answer"?}`: a text or turns, and the right answer; `system` or `tools` beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.files.rows import RowError, checked_text, kind_of
from runner.scripts.data.formats.prompt_completion import text_or_turns
from runner.scripts.data.prompted import Prompted, check_prompted
from runner.scripts.data.turns import behind_system, with_tools

FIELDS = ("prompt", "answer", "system", "tools")


def parse(row: dict[str, Any]) -> Prompted:
    """No answer of the prompt is trained on. `answer`: a text or a number. Raises RowError."""
    turns = behind_system(text_or_turns(row, "prompt", "user"), row)
    asked = with_tools(turns.conversation(), row)
    every = frozenset(
        index for index, turn in enumerate(asked.messages) if turn["role"] == "assistant"
    )
    return Prompted(replace(asked, untrained=every), _answer(row.get("answer")))


def waiting(row: dict[str, Any]) -> Conversation:
    """The prompt with the place of an answer behind it, an empty turn. Raises RowError."""
    found = parse(row)
    check_prompted(found)
    asked = found.asked
    return replace(asked, messages=(*asked.messages, message("assistant", "")))


def _answer(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f'"answer" is {kind_of(value)}, not a text or a number', "E357")
    text = checked_text(value, '"answer"').strip()
    if not text:
        raise RowError('"answer" is empty', "E357")
    return text
