"""Which format rows have, told by their keys, with the reason. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Most telling first: a row that has the keys of several is of the first.
_KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kto", ("prompt", "completion", "label")),
    ("preference", ("chosen", "rejected")),
    ("prompt-completion", ("prompt", "completion")),
    ("prompt", ("prompt", "answer")),
    ("alpaca", ("instruction", "output")),
    ("text", ("text",)),
)
# What others call the keys of a question and its answer.
_QUESTIONS = ("question", "query", "prompt", "instruction", "problem", "user")
_ANSWERS = ("answer", "response", "completion", "output", "solution", "assistant", "reply")
_TURNS = {
    "sharegpt": ("conversations", "from", "value"),
    "messages": ("messages", "role", "content"),
}


@dataclass(frozen=True, slots=True)
class Guess:
    """A format, the columns that it needs named, and in words why."""

    format: str
    reason: str
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def to_write(self) -> str:
        """What a recipe says of such a file."""
        if not self.columns:
            return f"format: {self.format}"
        names = ", ".join(f"{ours}: {theirs}" for ours, theirs in self.columns.items())
        return f"format: {self.format}, columns: {{{names}}}"

    def __str__(self) -> str:
        return f"looks like {self.format}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Sign:
    """What one row has: a format, and the columns by which it shows."""

    format: str
    keys: tuple[str, ...]
    columns: tuple[tuple[str, str], ...] = ()
    turn_keys: tuple[str, ...] = ()


def guess_format(rows: Sequence[Mapping[str, Any]]) -> Guess | None:
    """The format that most of `rows` have the keys of; None when no row has those of any."""
    signs = Counter(sign for row in rows for sign in dict.fromkeys(_signs(row)))
    if not signs:
        return None
    # Counter keeps the order of the first sight, in which more telling signs come first.
    sign, count = max(signs.items(), key=lambda item: item[1])
    keys = _listed(sign.keys)
    turns = f" with turns of {_listed(sign.turn_keys)}" if sign.turn_keys else ""
    reason = f"{keys}{turns} in {count} of {len(rows)} rows"
    return Guess(sign.format, reason, dict(sign.columns))


def _signs(row: Mapping[str, Any]) -> Iterable[_Sign]:
    """Every format that a row could be of, the most telling first."""
    given = {key for key, value in row.items() if value is not None}
    for name, keys in _KEYS:
        if given.issuperset(keys):
            yield _Sign(name, keys)
    for key in sorted(given, key=str):
        yield from _of_turns(key, row[key])
    yield from _of_other_names(given)


def _of_turns(key: str, value: Any) -> Iterable[_Sign]:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return
    if key in ("prompt", "completion", "chosen", "rejected"):
        return
    for name, (field_name, *turn_keys) in _TURNS.items():
        if value[0].keys() >= set(turn_keys):
            columns = () if key == field_name else ((field_name, key),)
            yield _Sign(name, (key,), columns, tuple(turn_keys))


def _of_other_names(given: set[str]) -> Iterable[_Sign]:
    question = next((key for key in _QUESTIONS if key in given), None)
    answer = next((key for key in _ANSWERS if key in given), None)
    if question is None or answer is None:
        return
    names = {"instruction": question, "output": answer}
    columns = tuple((ours, theirs) for ours, theirs in names.items() if ours != theirs)
    yield _Sign("alpaca", (question, answer), columns)


def _listed(keys: Sequence[str]) -> str:
    *most, last = (f'"{key}"' for key in keys)
    return f"{', '.join(most)} and {last}" if most else last
