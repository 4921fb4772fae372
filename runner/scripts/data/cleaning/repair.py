"""Texts that were decoded wrongly, and whitespace that nobody meant."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from runner.scripts.data.cleaning.words import nfc

_SEGMENT = 100_000  # characters that are looked at together, at most
_MOST_LINES = 20_000  # of a text that is looked at line by line
# Not there to be seen: zero width space, word joiner, byte order mark, soft hyphen.
_INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF, 0x00AD))
# As wide as a space or nearly so; the ideographic space is a character of its own.
_SPACES = dict.fromkeys((0x00A0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F), " ")
_TABLE: dict[int, str | None] = {**_INVISIBLE, **_SPACES}
_BLANK_LINES = re.compile(r"\n{3,}")
_EDGES = " \t\n\r\f\v"


def repaired(text: str) -> str:
    """The text with wrong decodings undone (`Ã©` is `é`), line ends as newlines, no control
    characters, characters composed. Quotes, ligatures and wide characters stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if len(lines) <= _MOST_LINES:
        return nfc("\n".join(map(_decoded, lines)))
    starts = range(0, len(text), _SEGMENT)
    return nfc("".join(_decoded(text[start : start + _SEGMENT]) for start in starts))


def _decoded(part: str) -> str:
    """A line, or a part of a text with very many: how a line was decoded says nothing of others."""
    from ftfy import fix_and_explain

    if part.isascii() and part.isprintable():
        return part
    starts = range(0, len(part), _SEGMENT)
    pieces = (part[start : start + _SEGMENT] for start in starts)
    return "".join(fix_and_explain(piece, _settings()).text for piece in pieces)


@cache
def _settings() -> Any:
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=False,  # the step web_text does it
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        normalization=None,  # by the Unicode of the Python that runs
        explain=False,
    )


def without_invisible(text: str) -> str:
    """The text without characters that nobody sees, so that they hide nothing in it."""
    return text.translate(_INVISIBLE)


def tidied(text: str) -> str:
    """The text without whitespace around it, at the ends of lines, and in more than one blank line.

    Spaces inside a line stay: code, tables and poems are made of them. Odd spaces become plain
    ones, and invisible characters go.
    """
    text = text.translate(_TABLE).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line.rstrip(_EDGES) for line in text.split("\n")]
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip(_EDGES)
