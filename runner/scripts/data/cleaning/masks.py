"""Find spans of a text, and write a word in brackets over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Span = tuple[int, int, str]  # begin, end, what it is
Finder = Callable[[str], Iterator[Span]]
_ROUNDS = 5  # what stands beside a mask may only now be seen for what it is


Mark = Callable[[str, str], str]  # what it is, and the text itself -> what is written over it


def covered(what: str, found: str) -> str:
    """`[EMAIL]`: nothing of the text is left."""
    return f"[{what}]"


def hinted(what: str, found: str) -> str:
    """`[EMAIL an…, 11 characters]`: enough to find it by, and too little to use it."""
    shown = 4 if len(found) >= 20 else 2 if len(found) >= 10 else 1
    begin = "".join(each if each.isprintable() else "?" for each in found[:shown])
    return f"[{what} {begin}…, {len(found)} characters]"


def masked(text: str, finders: tuple[Finder, ...], mark: Mark = covered) -> str:
    """The text with `[WHAT]` over each span; the earlier, then the longer one wins."""
    for _ in range(_ROUNDS):
        spans = [span for find in finders for span in find(text)]
        if not spans:
            break
        spans.sort(key=lambda span: (span[0], -span[1], span[2]))
        text = _written_over(text, spans, mark)
    return text


def _written_over(text: str, spans: list[Span], mark: Mark) -> str:
    parts, position = [], 0
    for begin, end, what in spans:
        if begin >= position:
            parts += [text[position:begin], mark(what, text[begin:end])]
            position = end
    return "".join([*parts, text[position:]])
