"""The texts inside a row, whatever its format: to look at, and to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from runner.scripts.data.conversation import ROLES, Conversation, Message
from runner.scripts.data.preference import Compared, Pair

Row = Conversation | Compared
Change = Callable[[str], str]
SAID = ("user", "assistant")  # turns of the two who talk


def sides_of(row: Row) -> tuple[Conversation, ...]:
    """The conversations of a row: one; of a pair, two."""
    return (row,) if isinstance(row, Conversation) else tuple(side for side, _ in row.sides)


def wanted_sides(row: Row) -> tuple[Conversation, ...]:
    """Those that the model is to become like: not the rejected, nor what is called bad."""
    if isinstance(row, Conversation):
        return (row,)
    return tuple(side for side, good in row.sides if good)


def with_sides(row: Row, sides: tuple[Conversation, ...]) -> Row:
    """The row with other conversations in it, at its place."""
    if isinstance(row, Conversation):
        return sides[0]
    if isinstance(row, Pair):
        return replace(row, chosen=sides[0], rejected=sides[1])
    return replace(row, answered=sides[0])


def answers_of(side: Conversation) -> list[str]:
    """What is trained on: the answers, but for calls without words; a plain text is one."""
    if side.text is not None:
        return [side.text]
    turns = [side.messages[index] for index in side.answers]
    return [turn["content"] for turn in turns if turn["content"].strip() or not calls_of(turn)]


def calls_of(turn: Message) -> list[dict[str, Any]]:
    """The calls of tools in a turn."""
    calls: list[dict[str, Any]] = turn.get("tool_calls", [])
    return calls


def texts_of(row: Row, roles: tuple[str, ...] = ROLES) -> list[str]:
    """Contents of the turns of `roles`, or the plain text; what both sides share comes once."""
    found: dict[tuple[int, str], None] = {}
    for side in sides_of(row):
        if side.text is not None:
            found[-1, side.text] = None
        for index, turn in enumerate(side.messages):
            if turn["role"] in roles:
                found[index, turn["content"]] = None
    return [text for _, text in found]


def every_string(row: Row) -> Iterator[str]:
    """Every text that may reach the model: contents, arguments of calls, descriptions of tools."""
    yield from texts_of(row)
    for side in sides_of(row):
        for value in (*side.tools, *(call for turn in side.messages for call in calls_of(turn))):
            yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def changed(row: Row, change: Change, roles: tuple[str, ...] = ROLES) -> Row:
    """The row with `change` done to the contents of the turns of `roles`, or to its plain text."""
    return with_sides(row, tuple(_changed(side, change, roles) for side in sides_of(row)))


def _changed(side: Conversation, change: Change, roles: tuple[str, ...]) -> Conversation:
    if side.text is not None:
        return replace(side, text=change(side.text))
    messages = tuple(
        {**turn, "content": change(turn["content"])} if turn["role"] in roles else turn
        for turn in side.messages
    )
    return replace(side, messages=messages)


def changed_everywhere(row: Row, change: Change) -> Row:
    """The row with `change` done to each of `every_string`."""
    return with_sides(row, tuple(_changed_deep(side, change) for side in sides_of(row)))


def _changed_deep(side: Conversation, change: Change) -> Conversation:
    side = _changed(side, change, ROLES)
    messages = tuple(
        {**turn, "tool_calls": _deep(turn["tool_calls"], change)} if "tool_calls" in turn else turn
        for turn in side.messages
    )
    return replace(side, messages=messages, tools=tuple(_deep(list(side.tools), change)))


def _deep(value: Any, change: Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _deep(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_deep(each, change) for each in value]
    return value
