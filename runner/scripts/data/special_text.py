"""Turns of rows whose text holds a special token that the chat template writes itself.

The tokenizer makes that very token of such a text: an answer ends in its middle, or a question
opens a turn of its own. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.scripts.data.sides import sides_of
from runner.scripts.data.writing import Read

SHOWN = 3  # places that are named


def written_by(template: str, special: Iterable[str], named: Mapping[str, Any]) -> list[str]:
    """Those of the tokens `special` that a template writes, by its text.

    `named`: what templates know as `bos_token` and the like -> the token.
    """
    by_name = {text for name, text in named.items() if name in template}
    return sorted({text for text in special if text and (text in template or text in by_name)})


class SpecialText:
    """Looks for `tokens` in the turns of rows."""

    def __init__(self, tokens: Iterable[str]) -> None:
        longest_first = sorted(tokens, key=lambda text: (-len(text), text))
        self._any = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def first_in(self, read: Read) -> str:
        """The first token that stands in a turn; "" where none does."""
        if self._any is None:
            return ""
        found = (self._any.search(text) for text in _said(read))
        return next((match.group() for match in found if match), "")


def _said(read: Read) -> Iterator[str]:
    """What stands in the turns of a row: contents, and texts in calls of tools."""
    for _, side in sides_of(read):
        for turn in side.messages:
            yield turn["content"]
            yield from _texts(turn.get("tool_calls", ()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
