"""Which system turn a row is trained with: its own, the recipe's, or one of several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.preference import Compared, Judged
from runner.scripts.data.prompted import Prompted

FOR_ALL = "all"  # of `system_for`: rows lose the system turn that they have


def without_own(conversation: Conversation, settings: Mapping[str, Any]) -> Conversation:
    """The conversation without its system turn, where the recipe's takes the place of all."""
    if settings.get("system_for") != FOR_ALL or not conversation.messages:
        return conversation
    if conversation.messages[0]["role"] != "system":
        return conversation
    untrained = frozenset(index - 1 for index in conversation.untrained if index)
    return replace(conversation, messages=conversation.messages[1:], untrained=untrained)


def system_of(digest: Callable[[], str], settings: Mapping[str, Any]) -> str | None:
    """The system turn for a row to train on that has none, by the `digest` of its content.

    One of `system` and the variants, each for about as many rows; the same for the same content
    and seed, whatever other rows there are.
    """
    choice: list[str | None] = [settings["system"], *settings.get("system_variants", ())]
    if len(choice) == 1:
        return choice[0]
    drawn = hashlib.sha256(f"system {settings['seed']} {digest()}".encode()).digest()
    return choice[int.from_bytes(drawn[:8], "big") % len(choice)]


def compared_without_own(row: Compared, settings: Mapping[str, Any]) -> Compared:
    """As `without_own`, of each side of the row."""
    if isinstance(row, Judged):
        return replace(row, answered=without_own(row.answered, settings))
    chosen, rejected = (without_own(side, settings) for side, _ in row.sides)
    return replace(row, chosen=chosen, rejected=rejected)


def prompt_of(row: Compared | Prompted) -> str:
    """Digest of what the answers of `row` are answers to."""
    if isinstance(row, Prompted):
        return row.asked.digest()
    side, _ = row.sides[0]
    return Conversation(messages=side.messages[: side.answers[0]], tools=side.tools).digest()
