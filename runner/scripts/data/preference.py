"""What rows of preferences become: two answers to one prompt, or one that is called good or bad.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from runner.scripts.data.conversation import (
    NO_TRAITS,
    NOWHERE,
    Conversation,
    Message,
    Traits,
    check_turns,
    is_empty,
)
from runner.scripts.data.files.rows import Place, RowError

MAX_QUOTED = 40  # characters of a turn in a message


@dataclass(frozen=True, slots=True)
class Pair:
    """Two conversations with the same beginning; only what comes behind it is compared."""

    chosen: Conversation
    rejected: Conversation
    place: Place = NOWHERE
    traits: Traits = NO_TRAITS

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns of both."""
        return (*self.chosen.messages, *self.rejected.messages)

    @property
    def sides(self) -> tuple[tuple[Conversation, bool], ...]:
        """Each conversation, and whether it is the preferred one."""
        return ((self.chosen, True), (self.rejected, False))

    def digest(self) -> str:
        """Sha256 of the content; where the row stands does not matter."""
        return _digest([self.chosen.digest(), self.rejected.digest()])

    def at(self, place: Place) -> Pair:
        """The same row, standing at `place`."""
        return Pair(replace(self.chosen, place=place), replace(self.rejected, place=place), place)


@dataclass(frozen=True, slots=True)
class Judged:
    """One conversation whose answer is `desirable` or not."""

    answered: Conversation
    desirable: bool
    place: Place = NOWHERE
    traits: Traits = NO_TRAITS

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its turns."""
        return self.answered.messages

    @property
    def sides(self) -> tuple[tuple[Conversation, bool], ...]:
        """The conversation, and whether it is a good one."""
        return ((self.answered, self.desirable),)

    def digest(self) -> str:
        """Sha256 of the content; where the row stands does not matter."""
        return _digest([self.answered.digest(), self.desirable])

    def at(self, place: Place) -> Judged:
        """The same row, standing at `place`."""
        return Judged(replace(self.answered, place=place), self.desirable, place)


Compared = Pair | Judged


def check_compared(row: Compared) -> None:
    """Raise RowError E322, E323, E333, E334 or E335 when there is nothing to compare."""
    if isinstance(row, Judged):
        check_turns(row.answered)
        _check_question(row.answered)
        return
    for name, side in (("chosen", row.chosen), ("rejected", row.rejected)):
        for index in side.answers:
            if is_empty(side.messages[index]):
                raise RowError(f'the answer in "{name}" is empty', "E334")
        if not side.answers or side.messages[-1]["role"] != "assistant":
            raise RowError(f'"{name}" does not end with an answer', "E334")
    _check_question(row.chosen)
    if (asked := _asked(row.chosen)) != (other := _asked(row.rejected)):
        raise RowError(_difference(asked, other), "E335")
    if row.chosen.messages == row.rejected.messages:
        raise RowError("chosen and rejected are the same", "E333")
    if _without_blanks(row.chosen) == _without_blanks(row.rejected):
        raise RowError("chosen and rejected differ by blanks at their ends alone", "E333")


def _asked(side: Conversation) -> tuple[Message, ...]:
    """The turns before what is compared."""
    return side.messages[: side.answers[0]]


def _check_question(side: Conversation) -> None:
    last = _asked(side)[-1:]
    if last and last[0]["role"] == "user" and is_empty(last[0]):
        raise RowError("the prompt is empty", "E322")


def _difference(chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    """In words, where the questions of two answers part."""
    pairs = zip_longest(chosen, rejected)
    number, (one, other) = next(
        (number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1]
    )
    return (
        f"chosen and rejected answer different questions: turn {number} is {_turn_words(one)} in "
        f"chosen, and {_turn_words(other)} in rejected"
    )


def _turn_words(turn: Message | None) -> str:
    if turn is None:
        return "the answer"
    said = turn["content"]
    return f'"{said[:MAX_QUOTED]}{"…" if len(said) > MAX_QUOTED else ""}" ({turn["role"]})'


def _without_blanks(side: Conversation) -> list[Message]:
    return [{**turn, "content": turn["content"].strip()} for turn in side.messages]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
