"""Turns of a conversation and the tools it may call, read from a row. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.scripts.data.conversation import ROLES, Conversation, Message, message, role_named
from runner.scripts.data.files.rows import (
    RowError,
    checked_text,
    checked_value,
    decoded,
    kind_of,
    text_field,
)

TOOL_CALLS = "tool_calls"
_OPTIONAL = ("content", "name", "weight", TOOL_CALLS, "tool_call_id")


@dataclass(frozen=True, slots=True)
class Turns:
    """Some turns, and the indexes of those of weight 0."""

    messages: tuple[Message, ...]
    untrained: frozenset[int] = frozenset()

    def conversation(self, tools: tuple[dict[str, Any], ...] = ()) -> Conversation:
        """All of a row."""
        return Conversation(messages=self.messages, untrained=self.untrained, tools=tools)

    def after(self, prompt: Turns) -> Conversation:
        """These behind the turns of a prompt, whose answers are not trained on."""
        shift = len(prompt.messages)
        earlier = {n for n, turn in enumerate(prompt.messages) if turn["role"] == "assistant"}
        return Conversation(
            messages=(*prompt.messages, *self.messages),
            untrained=frozenset(earlier | {index + shift for index in self.untrained}),
        )

    def from_turn(self, start: int) -> Turns:
        """Without the first `start` turns."""
        untrained = frozenset(index - start for index in self.untrained if index >= start)
        return Turns(self.messages[start:], untrained)


def behind_prompt(side: Turns, prompt: Turns, row: Mapping[str, Any]) -> Conversation:
    """The turns of `side` behind the prompt of its row, with what stands beside them.

    Many data sets give whole conversations beside their prompt: turns that begin with it have it
    already, and perhaps the system turn before it. Raises RowError.
    """
    asked = behind_system(prompt, row)
    if asked is prompt:
        asked = _behind_own_system(prompt, side)
    for start in (asked, prompt):
        if _begins_with(side, start):
            side = side.from_turn(len(start.messages))
            break
    return with_tools(side.after(asked), row)


def _behind_own_system(prompt: Turns, side: Turns) -> Turns:
    """The prompt behind the system turn of `side`, where that stands before the prompt there."""
    first = side.messages[0]
    if first["role"] != "system" or not _begins_with(side.from_turn(1), prompt):
        return prompt
    return Turns((first, *prompt.messages), frozenset(n + 1 for n in prompt.untrained))


def _begins_with(side: Turns, start: Turns) -> bool:
    """Has `side` the turns of `start` first, and others behind them? An answer begins none."""
    count = len(start.messages)
    if start.messages[0]["role"] == "assistant" or len(side.messages) <= count:
        return False
    return side.messages[:count] == start.messages


def behind_system(prompt: Turns, row: Mapping[str, Any]) -> Turns:
    """The prompt with the text under `system` before it; an empty one is none. Raises RowError."""
    system = text_field(row, "system", required=False)
    if not system:
        return prompt
    if prompt.messages and prompt.messages[0]["role"] == "system":
        raise RowError('"system" is filled, and the prompt begins with a system turn of its own')
    untrained = frozenset(index + 1 for index in prompt.untrained)
    return Turns((message("system", system), *prompt.messages), untrained)


def with_tools(conversation: Conversation, row: Mapping[str, Any]) -> Conversation:
    """The conversation with the tools of its row. Raises RowError."""
    return replace(conversation, tools=parse_tools(row))


def parse_turns(values: list[Any]) -> Turns:
    """A list of `{"role", "content"}`, with `name`, `weight`, calls of tools. Raises RowError."""
    messages, untrained = [], set()
    for number, value in enumerate(values, 1):
        turn, trained = _turn(value, number)
        if not trained:
            untrained.add(len(messages))
        messages.append(turn)
    return Turns(tuple(messages), frozenset(untrained))


def _turn(value: Any, number: int) -> tuple[Message, bool]:
    """A turn, and whether it is trained on where it is an answer.

    A turn that calls tools may say nothing: in Parquet a null and a missing `content` are the same.
    """
    name = f"turn {number}"
    given = check_turn(value, name, ("role",), _OPTIONAL)
    role = role_named(checked_text(given.get("role"), f'"role" of {name}'))
    if role not in ROLES:
        raise RowError(f'{name} has the unknown role "{role}"; known: {", ".join(ROLES)}')
    calls = given.get(TOOL_CALLS)
    content = given.get("content", "" if calls else None)
    if content is None and "content" not in value:
        raise RowError(f'{name} has no "content"')
    turn = message(role, _content(content, f'"content" of {name}'))
    for key, owner in (("name", None), ("tool_call_id", "tool"), (TOOL_CALLS, "assistant")):
        if key not in given:
            continue
        if owner not in (None, role):
            raise RowError(f'{name} has "{key}", but is no turn of the {owner}')
        turn[key] = (
            parse_calls(calls, name)
            if key == TOOL_CALLS
            else checked_text(given[key], f'"{key}" of {name}')
        )
    return turn, is_trained(given, role, name)


def _content(value: Any, name: str) -> str:
    """A text, or a list of parts that are texts, put one behind the other. Raises RowError."""
    if not isinstance(value, list):
        return checked_text(value, name)
    return "".join(_part(each, f"part {number} of {name}") for number, each in enumerate(value, 1))


def _part(value: Any, name: str) -> str:
    if not isinstance(value, dict):
        raise RowError(f"{name} is {kind_of(value)}, not an object")
    if value.get("type") != "text":
        kind = checked_text(value.get("type"), f'"type" of {name}')
        raise RowError(f'{name} is of type "{kind}", and only texts can be trained on')
    unknown = sorted({key for key, each in value.items() if each is not None} - {"type", "text"})
    if unknown:
        raise RowError(f'{name} has "{unknown[0]}", which is not understood')
    return checked_text(value.get("text"), f'"text" of {name}')


def check_turn(
    value: Any, name: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, Any]:
    """The keys of a turn; one that is null, and a call of no tool, count as missing.

    Raises RowError; a key that is not known may change the meaning.
    """
    if not isinstance(value, dict):
        raise RowError(f"{name} is {kind_of(value)}, not an object")
    for key in required:
        if key not in value:
            raise RowError(f'{name} has no "{key}"')
    filled = {key for key, given in value.items() if given is not None}
    unknown = sorted(filled - {*required, *optional})
    if unknown:
        raise RowError(f'{name} has "{unknown[0]}", which is not understood')
    return {
        key: given
        for key, given in value.items()
        if key in required or (given is not None and (key != TOOL_CALLS or given != []))
    }


def is_trained(turn: Mapping[str, Any], role: str, name: str) -> bool:
    """By its `weight`: 1 (the default) or 0, of an answer. Raises RowError."""
    weight = turn.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError(f'"weight" of {name} is neither 0 nor 1: a turn is trained on, or it is not')
    if weight == 1 and "weight" in turn and role != "assistant":
        raise RowError(f"{name} has weight 1, but only turns of the assistant are trained on")
    return bool(weight) or role != "assistant"


def parse_calls(value: Any, name: str) -> list[dict[str, Any]]:
    """Calls of functions; `arguments` as an object, also where it is a JSON text of one."""
    if not isinstance(value, list):
        raise RowError(f'"{TOOL_CALLS}" of {name} is {kind_of(value)}, not a list')
    return [_call(each, f"call {number} of {name}") for number, each in enumerate(value, 1)]


def _call(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(f"{name} is {kind_of(value)}, not an object")
    function = value.get("function", value)
    if not isinstance(function, dict) or set(function) - {"name", "arguments", "type", "id"}:
        raise RowError(f'{name} has no "function" with "name" and "arguments"')
    if set(value) - {"function", "type", "id"} and function is not value:
        raise RowError(f"{name} has keys that are not understood")
    if value.get("type", "function") != "function":
        raise RowError(f"{name} is of another type than function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = decoded(arguments, f'"arguments" of {name}') if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise RowError(f'"arguments" of {name} is {kind_of(arguments)}, not an object')
    checked_value(arguments, f'"arguments" of {name}')
    made: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": checked_text(function.get("name"), f'"name" of {name}'),
            "arguments": arguments,
        },
    }
    if value.get("id") is not None:
        made["id"] = checked_text(value["id"], f'"id" of {name}')
    return made


def parse_tools(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """What is under `tools`: a list of functions, or a JSON text of one; bare ones are wrapped.

    Null, an empty list and an empty text are none. Raises RowError.
    """
    value = row.get("tools")
    if isinstance(value, str):
        value = decoded(value, '"tools"') if value.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError(f'"tools" is {kind_of(value)}, not a list')
    return tuple(_tool(each, f'entry {number} of "tools"') for number, each in enumerate(value, 1))


def _tool(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(f"{name} is {kind_of(value)}, not an object")
    wrapped = value if "function" in value else {"type": "function", "function": value}
    function = wrapped["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f'{name} is no function with a "name"')
    checked_value(wrapped, name)
    return wrapped


def as_json(value: Any) -> str:
    """A value inside a text: compact, no character escaped that need not be."""
    return json.dumps(value, ensure_ascii=False)
