"""Find spans of a text, and write a word in brackets over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Span = tuple[int, int, str]  # begin, end, what it is
Finder = Callable[[str], Iterator[Span]]
_ROUNDS = 5  # what stands beside a mask may only now be seen for what it is


def masked(text: str, finders: tuple[Finder, ...]) -> str:
    """The text with `[WHAT]` over each span; the earlier, then the longer one wins."""
    for _ in range(_ROUNDS):
        spans = [span for find in finders for span in find(text)]
        if not spans:
            break
        text = _written_over(text, sorted(spans, key=lambda span: (span[0], -span[1], span[2])))
    return text


def _written_over(text: str, spans: list[Span]) -> str:
    parts, position = [], 0
    for begin, end, what in spans:
        if begin >= position:
            parts += [text[position:begin], f"[{what}]"]
            position = end
    return "".join([*parts, text[position:]])
