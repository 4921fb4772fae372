"""`{"prompt"?, "chosen", "rejected"}`, texts or lists of turns; `system` or `tools` beside them."""

from __future__ import annotations

from typing import Any

from runner.scripts.data.files.rows import RowError
from runner.scripts.data.formats.prompt_completion import text_or_turns
from runner.scripts.data.preference import Pair
from runner.scripts.data.turns import Turns, behind_prompt, behind_system, with_tools

FIELDS = ("prompt", "chosen", "rejected", "system", "tools")


def parse(row: dict[str, Any]) -> Pair:
    """Without `prompt`, the turns that both sides begin with are the prompt.

    Sides that begin with `prompt` do not repeat it. Raises RowError.
    """
    chosen, rejected = _side(row, "chosen"), _side(row, "rejected")
    if row.get("prompt") is not None:
        prompt = text_or_turns(row, "prompt", "user")
        return Pair(behind_prompt(chosen, prompt, row), behind_prompt(rejected, prompt, row))
    for key in ("chosen", "rejected"):
        if isinstance(row[key], str):
            raise RowError(f'"prompt" is missing: "{key}" is a text without a question', "E335")
    shared = shared_prompt(chosen, rejected)
    prompt = behind_system(shared, row)
    sides = (side.from_turn(len(shared.messages)).after(prompt) for side in (chosen, rejected))
    return Pair(*(with_tools(side, row) for side in sides))


def shared_prompt(chosen: Turns, rejected: Turns) -> Turns:
    """The turns that both begin with, up to a question. Raises RowError E335 without one."""
    one, other = chosen.messages, rejected.messages
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    while same and one[same - 1]["role"] == "assistant":  # equal answers belong to both sides
        same -= 1
    if not same or one[same - 1]["role"] not in ("user", "tool"):
        raise RowError("chosen and rejected do not begin with the same question", "E335")
    return Turns(one[:same])


def _side(row: dict[str, Any], key: str) -> Turns:
    if row.get(key) is None:
        raise RowError(f'"{key}" is missing', "E334")
    return text_or_turns(row, key, "assistant")
