"""Which format rows have, told by their keys, with the reason. Standard library only."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Most telling first: a row that has the keys of several is of the first. A text beside turns is
# often the turns as some template wrote them.
_KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kto", ("prompt", "completion", "label")),
    ("preference", ("chosen", "rejected")),
    ("prompt-completion", ("prompt", "completion")),
    ("prompt", ("prompt", "answer")),
    ("alpaca", ("instruction", "output")),
)
_TEXT = "text"
_NO_TEXTS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")  # to readers of YAML
_ALONE = {"prompt", "system", "id"}  # all keys of a prompt without an answer
# What others call the keys of a question, of what it is about and of its answer.
_QUESTIONS = ("question", "query", "prompt", "instruction", "problem", "user")
_INPUTS = ("context",)
_ANSWERS = ("answer", "response", "completion", "output", "solution", "assistant", "reply")
_TURNS = {
    "sharegpt": ("conversations", "from", "value"),
    "messages": ("messages", "role", "content"),
}


@dataclass(frozen=True, slots=True)
class Guess:
    """A format, the columns that it needs named, and in words why.

    `others`: what most of these rows could be too, each as a format with its keys.
    """

    format: str
    reason: str
    columns: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def to_write(self) -> str:
        """What a recipe says of such a file."""
        if not self.columns:
            return f"format: {self.format}"
        names = ", ".join(f"{ours}: {_plain(theirs)}" for ours, theirs in self.columns.items())
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
    found = [(row, signs) for row in rows if (signs := list(dict.fromkeys(_signs(row))))]
    if not found:
        return None
    sign = _most_telling([signs for _, signs in found])
    alike = [(row, signs) for row, signs in found if sign in signs]
    turns = f" with turns of {_listed(sign.turn_keys)}" if sign.turn_keys else ""
    reason = f"{_listed(sign.keys)}{turns} in {len(alike)} of {len(rows)} rows"
    columns = dict(_input_column(sign, [row for row, _ in alike])) | dict(sign.columns)
    return Guess(sign.format, reason, columns, _others(sign, [signs for _, signs in alike]))


def _most_telling(found: Sequence[Sequence[_Sign]]) -> _Sign:
    """The sign of most rows, or a more telling one that most of these rows have as well."""
    counts = Counter(sign for signs in found for sign in signs)
    # Counter keeps the order of the first sight, in which more telling signs come first.
    most = max(counts, key=lambda sign: counts[sign])
    alike = [signs for signs in found if most in signs]
    ahead = Counter(sign for signs in alike for sign in signs[: signs.index(most)])
    return next((sign for sign, count in ahead.items() if 2 * count > len(alike)), most)


def _others(chosen: _Sign, found: Sequence[Sequence[_Sign]]) -> tuple[str, ...]:
    """What else most of the rows could be, by keys that the chosen sign does not have."""
    counts = Counter(sign for signs in found for sign in signs)
    return tuple(
        f"{sign.format} ({_listed(sign.keys)})"
        for sign, count in counts.items()
        if sign.format != chosen.format
        and 2 * count > len(found)
        and not set(sign.keys) <= set(chosen.keys)
    )


def _input_column(sign: _Sign, rows: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """What the rows call `input` of alpaca: a column is named only where every row has it."""
    if sign.format != "alpaca" or any("input" in row for row in rows):
        return
    for name in _INPUTS:
        texts = [row.get(name, 0) for row in rows]
        if any(texts) and all(text is None or isinstance(text, str) for text in texts):
            yield "input", name


def _signs(row: Mapping[str, Any]) -> Iterable[_Sign]:
    """Every format that a row could be of, the most telling first."""
    given = {key for key, value in row.items() if value is not None}
    for name, keys in _KEYS:
        if given.issuperset(keys):
            yield _pair(row, given) if name == "preference" else _Sign(name, keys)
    for key in sorted(given, key=str):
        yield from _of_turns(key, row[key])
    if _TEXT in given:
        yield _Sign("text", (_TEXT,))
    yield from _of_other_names(given)
    if "prompt" in given and given <= _ALONE:
        yield _Sign("prompt", ("prompt",))


def _pair(row: Mapping[str, Any], given: set[str]) -> _Sign:
    """Two answers, which are texts: what they answer is perhaps called otherwise than `prompt`."""
    answers = ("chosen", "rejected")
    called = {key.strip().lower(): key for key in sorted(given, key=str)}
    question = next((called[key] for key in _QUESTIONS if key in called), "prompt")
    asks = question != "prompt" and all(isinstance(row[key], str) for key in (question, *answers))
    if "prompt" in row or not asks:
        return _Sign("preference", answers)
    return _Sign("preference", (question, *answers), (("prompt", question),))


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
    """By keys that mean a question and an answer, however they are capitalised."""
    called = {key.strip().lower(): key for key in sorted(given, key=str)}
    question = next((called[key] for key in _QUESTIONS if key in called), None)
    answer = next((called[key] for key in _ANSWERS if key in called), None)
    if question is None or answer is None:
        return
    names = {"instruction": question, "output": answer}
    columns = tuple((ours, theirs) for ours, theirs in names.items() if ours != theirs)
    yield _Sign("alpaca", (question, answer), columns)


def _plain(name: str) -> str:
    """A name of a column as it is written in a recipe."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) and name.lower() not in _NO_TEXTS
    return name if plain else json.dumps(name)


def _listed(keys: Sequence[str]) -> str:
    *most, last = (f'"{key}"' for key in keys)
    return f"{', '.join(most)} and {last}" if most else last
