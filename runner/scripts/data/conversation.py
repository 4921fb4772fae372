"""The one form that rows of every format become. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from runner.scripts.data.files.rows import Place, RowError

NOWHERE = Place("", 0)
Message = dict[str, Any]  # role and content; where given name, tool_calls, tool_call_id
_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
ROLES = ("system", "user", "assistant", "tool")
# What files call these roles, in small letters.
ALIASES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing"), "assistant"),
    "developer": "system",
}


def role_named(name: str) -> str:
    """The role that a file calls so, whatever the case; the name itself where it is none."""
    small = name.lower()
    role = ALIASES.get(small, small)
    return role if role in ROLES else name


@dataclass(frozen=True, slots=True)
class Traits:
    """What the file says of a row beside what is learnt: where it comes from (number of the item of
    data.train) and its values of the columns that rows are grouped and stratified by.
    """

    source: int = 0
    group: str | None = None
    stratum: str | None = None


NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, or (format `text`) a plain text without turns.

    `untrained` are the indexes of assistant turns that are context only: the answers inside the
    prompt of a prompt-completion row, and turns of weight 0. `tools` are the functions that the
    model may call, as `apply_chat_template` takes them.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    untrained: frozenset[int] = frozenset()
    place: Place = NOWHERE
    tools: tuple[dict[str, Any], ...] = ()
    traits: Traits = NO_TRAITS
    _digest: str = field(default="", init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., Conversation], tuple[Any, ...]]:
        """Pickled as one flat tuple, its digest in it: millions of rows go through a file."""
        place, traits = self.place, self.traits
        return _unpickled, (
            *(self.messages, self.text, self.untrained, self.tools, self._digest),
            *(place.file, place.line, traits.source, traits.group, traits.stratum),
        )

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
        if self.tools:
            return {"messages": list(self.messages), "tools": list(self.tools)}
        return {"messages": list(self.messages)}

    def digest(self) -> str:
        """Sha256 of the content; where the row stands does not matter.

        It is counted once; a conversation that `replace` makes of this one counts its own.
        """
        if not self._digest:
            content = [self.as_json(), sorted(self.untrained)]
            _keep_digest(self, hashlib.sha256(_canonical(content).encode()).hexdigest())
        return self._digest


def _keep_digest(conversation: Conversation, digest: str) -> None:
    object.__setattr__(conversation, "_digest", digest)  # else it is frozen


def _unpickled(
    messages: tuple[Message, ...],
    text: str | None,
    untrained: frozenset[int],
    tools: tuple[dict[str, Any], ...],
    digest: str,
    *place_and_traits: Any,
) -> Conversation:
    """What `__reduce__` took apart."""
    file, line, *traits = place_and_traits
    made = Conversation(messages, text, untrained, Place(file, line), tools, Traits(*traits))
    _keep_digest(made, digest)
    return made


def message(role: str, content: str) -> Message:
    """One turn."""
    return {"role": role, "content": content}


def check_turns(conversation: Conversation) -> None:
    """Raises RowError E323 when there is nothing to train on in a conversation."""
    if conversation.text is not None:
        if not conversation.text.strip():
            raise RowError("the text is empty", "E323")
        return
    if not conversation.answers:
        raise RowError("there is no assistant turn to train on", "E323")
    for index in conversation.answers:
        if is_empty(conversation.messages[index]):
            raise RowError(f"the answer in turn {index + 1} is empty", "E323")
    last = conversation.messages[-1]["role"]
    if last != "assistant":
        raise RowError(f"the last turn is the {last}'s and has no answer", "E323")


def begins_with_answer(row: Any) -> bool:
    """Is it a conversation whose first turn is an answer to train on?"""
    return isinstance(row, Conversation) and 0 in row.answers


def asks_nothing(row: Any) -> bool:
    """Is it a conversation with a question of blanks alone?"""
    return isinstance(row, Conversation) and any(
        turn["role"] == "user" and not turn["content"].strip() for turn in row.messages
    )


def is_empty(turn: Message) -> bool:
    """Does the turn neither say nor call anything?"""
    return not turn["content"].strip() and not turn.get("tool_calls")


def fill_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put `system` before messages that do not begin with a system turn; an empty one is a turn."""
    if system is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [message("system", system), *messages]


def with_system(conversation: Conversation, system: str | None) -> Conversation:
    """The conversation after `fill_system`."""
    if conversation.text is not None or system is None:
        return conversation
    filled = fill_system(list(conversation.messages), system)
    shift = len(filled) - len(conversation.messages)
    return replace(
        conversation,
        messages=tuple(filled),
        untrained=frozenset(index + shift for index in conversation.untrained),
    )
