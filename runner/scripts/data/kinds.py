"""Of what kind the columns of rows are, for files in which each has one. Standard library only.

A kind is JSON: "null", "bool", "int", "long" (an integer that no float holds exactly), "float",
"text", {"list": kind of the items} or {"fields": {name: kind}}; of a column also "json", whose
values become texts of JSON. A field that is missing is null, and read as missing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from runner.scripts.data.files.numbers import with_all_digits

Kind = str | dict[str, Any]
Row = dict[str, Any]
JSON = "json"
# A text in one row and turns in another: the text is one turn of this role.
SPOKEN_BY = {"prompt": "user", "completion": "assistant", "chosen": "assistant",
             "rejected": "assistant"}  # fmt: skip
_TURNS = ("messages", *SPOKEN_BY)
_A_TURN: Kind = {"list": {"fields": {"role": "text", "content": "text"}}}
_EXACT, _LONGEST = 1 << 53, 1 << 63  # of integers: that floats hold, that 64 bits hold
_NUMBERS = {
    frozenset(("int", "long")): "long",
    frozenset(("int", "float")): "float",
}


class Mixed(Exception):
    """Values that are of no one kind."""


class Columns:
    """The kinds of the columns of all rows that were added, of a format that reads `read`."""

    def __init__(self, read: Sequence[str]) -> None:
        self._read = read
        self._kinds: dict[str, Kind] = {}

    def add(self, row: Row) -> list[str]:
        """What of the row is lost: of what kind a column is that is no longer of one."""
        losses = []
        for key, value in row.items():
            before = self._kinds.get(key, "null")
            now = self._after(key, before, value)
            self._kinds[key] = now
            is_text = value is None or isinstance(value, str)
            if now == JSON and (before != JSON or not is_text):
                losses.append(f'that "{key}" holds values of several kinds, which become texts')
        return losses

    def _after(self, key: str, before: Kind, value: Any) -> Kind:
        if before == JSON:
            return JSON
        try:
            return self._joined(key, before, kind_of(value))
        except Mixed:
            return JSON

    def _joined(self, key: str, before: Kind, now: Kind) -> Kind:
        if key in SPOKEN_BY and key in self._read and "text" in (before, now) and before != now:
            before, now = (_A_TURN if each == "text" else each for each in (before, now))
        return joined(before, now)

    def kinds(self) -> dict[str, Kind]:
        """Those that the format reads come first, in its order."""
        first = [key for key in self._read if key in self._kinds]
        return {key: self._kinds[key] for key in dict.fromkeys((*first, *self._kinds))}


def kind_of(value: Any) -> Kind:
    """Raises Mixed for a list of several kinds, and for what would not be read back: an object
    without fields or with one that is null, and an integer of more than 64 bits."""
    if isinstance(value, float):
        return "float"
    if value is None or isinstance(value, bool | str):
        return {type(None): "null", bool: "bool", str: "text"}[type(value)]
    if isinstance(value, int):
        if not -_LONGEST <= value < _LONGEST:
            raise Mixed
        return "int" if abs(value) <= _EXACT else "long"
    if isinstance(value, list):
        return {"list": _of_all(map(kind_of, value))}
    if not value or None in value.values():
        raise Mixed
    return {"fields": {name: kind_of(each) for name, each in value.items()}}


def _of_all(kinds: Iterable[Kind]) -> Kind:
    return reduce(joined, kinds, "null")


def joined(one: Kind, other: Kind) -> Kind:
    """The kind of values of both. Raises Mixed."""
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    if isinstance(one, str) or isinstance(other, str):
        return _number(one, other)
    if one.keys() != other.keys():
        raise Mixed
    if "list" in one:
        return {"list": joined(one["list"], other["list"])}
    fields = {**other["fields"], **one["fields"]}
    names = dict.fromkeys((*one["fields"], *other["fields"]))
    both = one["fields"].keys() & other["fields"].keys()
    return {
        "fields": {
            name: joined(one["fields"][name], other["fields"][name]) if name in both else kind
            for name in names
            for kind in (fields[name],)
        }
    }


def _number(one: Kind, other: Kind) -> Kind:
    if not (isinstance(one, str) and isinstance(other, str)):
        raise Mixed
    found = _NUMBERS.get(frozenset((one, other)))
    if found is None:
        raise Mixed
    return found


def with_texts(row: Row, read: Sequence[str]) -> Row:
    """The row with its tools, and the arguments of calls, as texts of JSON: these differ from one
    tool to the next, and a null in them means something."""
    made = dict(row)
    if "tools" in read and isinstance(row.get("tools"), list):
        made["tools"] = with_all_digits(row["tools"])
    for key in _TURNS:
        if key in read and isinstance(row.get(key), list):
            made[key] = [_turn(turn) for turn in row[key]]
    return made


def _turn(turn: Mapping[str, Any]) -> Row:
    if "tool_calls" not in turn:
        return dict(turn)
    return {**turn, "tool_calls": [_call(each) for each in turn["tool_calls"]]}


def _call(call: Mapping[str, Any]) -> Row:
    function = call["function"]
    return {**call, "function": {**function, "arguments": with_all_digits(function["arguments"])}}
