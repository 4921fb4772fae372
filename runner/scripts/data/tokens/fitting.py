"""Rows that are longer than the model is trained on. Standard library only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.scripts.data.files.rows import RowError

if TYPE_CHECKING:
    from runner.scripts.data.tokens.chat_tokens import Tokens


def fit(tokens: Tokens, max_length: int, too_long: str) -> Tokens | str:
    """The tokens within `max_length`, or the reason why the row is dropped. Raises RowError E325.

    A truncated row ends with the last answer that has a token left, so no answer is empty.
    """
    length = len(tokens.ids)
    if length <= max_length:
        return tokens
    if too_long == "error":
        raise RowError(f"the row has {length} tokens, data.max_length is {max_length}", "E325")
    if too_long == "drop":
        return "too long"
    spans = [(begin, min(end, max_length)) for begin, end in tokens.spans if begin < max_length]
    spans = [(begin, end) for begin, end in spans if end > max(begin, 1)]
    if not spans:
        return "no answer within max_length"
    return replace(tokens, ids=tokens.ids[: spans[-1][1]], spans=spans)
