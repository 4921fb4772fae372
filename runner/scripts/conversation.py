"""The one form that rows of every format become. Standard library only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from runner.scripts.rows import Place, RowError, checked_text, kind_of

NOWHERE = Place("", 0)
Message = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, or (format `text`) a plain text without turns.

    `untrained` are the indexes of assistant turns that are context only: the answers inside the
    prompt of a prompt-completion row.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    untrained: frozenset[int] = frozenset()
    place: Place = NOWHERE

    @property
    def answers(self) -> list[int]:
        """Indexes of the turns to train on."""
        return [
            index
            for index, message in enumerate(self.messages)
            if message["role"] == "assistant" and index not in self.untrained
        ]

    def as_json(self) -> dict[str, Any]:
        """The canonical row: `{"messages": [...]}` or `{"text": ...}`."""
        if self.text is not None:
            return {"text": self.text}
        return {"messages": list(self.messages)}

    def digest(self) -> str:
        """Sha256 of the content; where the row stands does not matter."""
        content = [self.as_json(), sorted(self.untrained)]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def message(role: str, content: str) -> Message:
    """One turn."""
    return {"role": role, "content": content}


def parse_message(
    value: Any, number: int, role_key: str, content_key: str, roles: dict[str, str]
) -> Message:
    """Turn `number` of a row. Raises RowError; a key it does not know may change the meaning."""
    name = f"turn {number}"
    if not isinstance(value, dict):
        raise RowError(f"{name} is {kind_of(value)}, not an object")
    for key in (role_key, content_key):
        if key not in value:
            raise RowError(f'{name} has no "{key}"')
    unknown = sorted(set(value) - {role_key, content_key})
    if unknown:
        raise RowError(f'{name} has "{unknown[0]}", which is not understood')
    role = checked_text(value[role_key], f'"{role_key}" of {name}')
    if role not in roles:
        raise RowError(f'{name} has the unknown role "{role}"; known: {", ".join(roles)}')
    return message(roles[role], checked_text(value[content_key], f'"{content_key}" of {name}'))


def check_turns(conversation: Conversation) -> None:
    """Raises RowError E323 when there is nothing to train on in a conversation."""
    if conversation.text is not None:
        if not conversation.text.strip():
            raise RowError("the text is empty", "E323")
        return
    if not conversation.answers:
        raise RowError("there is no assistant turn to train on", "E323")
    for index in conversation.answers:
        if not conversation.messages[index]["content"].strip():
            raise RowError(f"the answer in turn {index + 1} is empty", "E323")
    last = conversation.messages[-1]["role"]
    if last != "assistant":
        raise RowError(f"the last turn is the {last}'s and has no answer", "E323")


def fill_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put `system` before messages that do not begin with a system turn; an empty one is a turn."""
    if system is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [message("system", system), *messages]


def with_system(conversation: Conversation, system: str | None) -> Conversation:
    """The conversation after `fill_system`."""
    if conversation.text is not None:
        return conversation
    filled = fill_system(list(conversation.messages), system)
    shift = len(filled) - len(conversation.messages)
    return replace(
        conversation,
        messages=tuple(filled),
        untrained=frozenset(index + shift for index in conversation.untrained),
    )
