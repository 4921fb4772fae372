"""`{"conversations": [{"from": "human" | "gpt" | ..., "value": ...}, ...], "system"?, "tools"?}`"""

from __future__ import annotations

from typing import Any

from runner.scripts.data.conversation import ROLES, Conversation, Message, message, role_named
from runner.scripts.data.files.rows import RowError, checked_text, decoded, list_field, text_field
from runner.scripts.data.turns import (
    TOOL_CALLS,
    Turns,
    check_turn,
    is_trained,
    parse_calls,
    parse_tools,
)

FIELDS = ("conversations", "system", "tools")
FUNCTION_CALL = "function_call"

_KNOWN = ("human", "gpt", "system", "user", "assistant", "tool", "observation", FUNCTION_CALL)
_OF_TOOLS = {"observation": "tool", FUNCTION_CALL: "assistant"}


def parse(row: dict[str, Any]) -> Conversation:
    """An empty `system` beside the turns is the same as none. Raises RowError.

    Asking turns and answering ones must alternate: what a row with a gap means is not guessed.
    """
    return _parse(row, ordered=True)


def parse_any_order(row: dict[str, Any]) -> Conversation:
    """As `parse`, for the step of cleaning that brings turns into order."""
    return _parse(row, ordered=False)


def _parse(row: dict[str, Any], *, ordered: bool) -> Conversation:
    messages: list[Message] = []
    untrained = set()
    for number, value in enumerate(list_field(row, "conversations"), 1):
        turn, trained = _turn(value, number)
        if ordered:
            check_order(messages, turn["role"], number, value["from"])
        if not trained:
            untrained.add(len(messages))
        messages.append(turn)
    system = text_field(row, "system", required=False)
    if system:
        if messages[0]["role"] == "system":
            raise RowError('there is a system turn and "system" beside it')
        messages.insert(0, message("system", system))
        untrained = {index + 1 for index in untrained}
    return Turns(tuple(messages), frozenset(untrained)).conversation(parse_tools(row))


def check_order(before: list[Message], role: str, number: int, name: str) -> None:
    """Raises RowError E346 unless `role` may follow the turns `before`."""
    if role == "system":
        if before:
            raise RowError(f'turn {number} is of "{name}", which comes first only', "E346")
        return
    answers = role == "assistant"
    last = before[-1]["role"] if before else "system"
    if answers and last == "system":
        raise RowError(f'turn {number} is of "{name}", but nobody has asked yet', "E346")
    if last != "system" and answers == (last == "assistant"):
        what = "an answer" if answers else "a question"
        raise RowError(f'turn {number} is of "{name}", but so was {what} just before it', "E346")


def _turn(value: Any, number: int) -> tuple[Message, bool]:
    name = f"turn {number}"
    given = check_turn(value, name, ("from", "value"), ("weight",))
    said_by = checked_text(given["from"], f'"from" of {name}')
    role = _OF_TOOLS.get(said_by.lower()) or role_named(said_by)
    if role not in ROLES:
        raise RowError(f'{name} has the unknown role "{said_by}"; known: {", ".join(_KNOWN)}')
    content = checked_text(given["value"], f'"value" of {name}')
    turn = message(role, content)
    if said_by.lower() == FUNCTION_CALL:
        calls = decoded(content, f'"value" of {name}')
        calls = calls if isinstance(calls, list) else [calls]
        turn = {**message(role, ""), TOOL_CALLS: parse_calls(calls, name)}
    return turn, is_trained(given, role, name)
