"""What rows of format `prompt` become: a question, and where there is one its right answer.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from runner.scripts.data.conversation import (
    NO_TRAITS,
    NOWHERE,
    Conversation,
    Message,
    Traits,
    message,
)
from runner.scripts.data.files.rows import Place, RowError


@dataclass(frozen=True, slots=True)
class Prompted:
    """A conversation that waits for an answer; `answer`: what the answer is held against."""

    asked: Conversation
    answer: str | None = None
    place: Place = NOWHERE
    traits: Traits = NO_TRAITS

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its turns."""
        return self.asked.messages

    @property
    def sides(self) -> tuple[tuple[Conversation, bool], ...]:
        """The one conversation that it is, as of other rows that are no single answer."""
        return ((self.asked, True),)

    def answered(self) -> Conversation:
        """With its right answer behind it; without one as it is."""
        if self.answer is None:
            return self.asked
        return replace(
            self.asked, messages=(*self.asked.messages, message("assistant", self.answer))
        )

    def digest(self) -> str:
        """Sha256 of the content; where the row stands does not matter."""
        content = [self.asked.digest(), self.answer]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def at(self, place: Place) -> Prompted:
        """The same row, standing at `place`."""
        return replace(self, asked=replace(self.asked, place=place), place=place)


def check_prompted(row: Prompted) -> None:
    """Raise RowError E357 when there is nothing to answer."""
    last = row.messages[-1]
    if last["role"] not in ("user", "tool"):
        raise RowError(f"the prompt ends with a turn of the {last['role']}, not a question", "E357")
    if not last["content"].strip():
        raise RowError("the last question is empty", "E357")
