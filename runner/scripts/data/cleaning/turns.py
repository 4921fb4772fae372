"""Turns in which question and answer do not alternate."""

from __future__ import annotations

from dataclasses import replace

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import Row, calls_of, sides_of, with_sides
from runner.scripts.data.conversation import Conversation, Message

_BETWEEN = "\n\n"  # of turns that are made one


def broken(side: Conversation) -> str:
    """The first thing that is out of order, in words; "" when nothing is."""
    if side.text is not None:
        return ""
    last = "start"
    for number, turn in enumerate(side.messages, 1):
        if not _may_follow(last, turn["role"], number):
            return f"turn {number} ({turn['role']}) follows {last}"
        last = turn["role"]
    return "" if last == "assistant" else "there is no answer at the end"


def _may_follow(last: str, role: str, number: int) -> bool:
    if role == "system":
        return number == 1
    follows = {
        "user": ("start", "system", "assistant"),
        "assistant": ("user", "tool"),
        "tool": ("assistant", "tool"),
    }
    return last in follows[role]


def dropped_if_broken(row: Row) -> Row | Drop:
    """The row, or why it is left out."""
    for side in sides_of(row):
        if wrong := broken(side):
            first = side.messages[0]["content"] if side.messages else ""
            return Drop(wrong, first)
    return row


def merged(row: Row) -> Row | Drop:
    """The row with turns that belong together made one: questions or answers that follow one
    another, without answers before the first question and questions after the last answer.
    """
    found = dropped_if_broken(with_sides(row, tuple(_merged(side) for side in sides_of(row))))
    if isinstance(found, Drop) and any(_weights_differ(side) for side in sides_of(row)):
        return replace(found, why=f"{found.why}, of another weight")
    return found


def _weights_differ(side: Conversation) -> bool:
    """Do two answers follow one another of which only one is trained on?"""
    roles = ["start", *(turn["role"] for turn in side.messages)]
    return any(
        roles[index] == roles[index + 1] == "assistant"
        and (index in side.untrained) != (index - 1 in side.untrained)
        for index in range(1, len(side.messages))
    )


def _merged(side: Conversation) -> Conversation:
    if not broken(side):
        return side
    turns: list[tuple[Message, bool]] = []  # and whether it is context only
    for index, turn in enumerate(side.messages):
        context = index in side.untrained
        before = turns[-1] if turns else None
        if turn["role"] == "assistant" and (before is None or before[0]["role"] == "system"):
            continue
        if before and _belongs(before[0], turn) and before[1] == context:
            turns[-1] = (_joined(before[0], turn), context)
        else:
            turns.append((turn, context))
    while turns and turns[-1][0]["role"] != "assistant":
        turns.pop()
    return replace(
        side,
        messages=tuple(turn for turn, _ in turns),
        untrained=frozenset(index for index, (_, context) in enumerate(turns) if context),
    )


def _belongs(before: Message, turn: Message) -> bool:
    """Of one who talks, and nothing but words."""
    same = before["role"] == turn["role"] and before.get("name") == turn.get("name")
    return same and turn["role"] != "tool" and not calls_of(before) and not calls_of(turn)


def _joined(before: Message, turn: Message) -> Message:
    said = [each["content"] for each in (before, turn) if each["content"].strip()]
    return {**before, "content": _BETWEEN.join(said)}
