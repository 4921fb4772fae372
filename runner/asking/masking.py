"""Keys of APIs, found in what servers say and in files that ask for one, and written over."""

from __future__ import annotations

import functools
import html
import re

MASK = "***"
SHORTEST_SECRET = 8  # characters; "EMPTY" or "none" is no secret, and may be a word of an answer

# What follows Bearer in a server's words is the key, or what the server made of it; these words
# are of sentences about it.
_BEARER = re.compile(
    r"\b(Bearer(?:\s|%20|\+)+)"
    r"(?!(?:tokens?|keys?|auth\w*|realm|scheme|headers?|errors?|is|was|in|or)\b)[^\s\"'<>,;]+",
    re.IGNORECASE,
)


def without_key_in_words(text: str, key: str | None) -> str:
    """A server's words about a failure without the key, however short it is."""
    if key is None:
        return text
    return _BEARER.sub(rf"\g<1>{MASK}", _pattern(key).sub(MASK, text))


def without_key_in_answer(text: str, key: str | None) -> str:
    """A model's answer without the key.

    A short one is masked behind Bearer alone: it is a stand-in that a local server wants, and
    "EMPTY" or "none" may be a word of the answer, or of the JSON around it.
    """
    if key is None:
        return text
    if len(key) < SHORTEST_SECRET:
        return re.sub(
            rf"(\bBearer(?:\s|%20|\+)+){_pattern(key).pattern}(?!\w)",
            rf"\g<1>{MASK}",
            text,
            flags=re.IGNORECASE,
        )
    return _pattern(key).sub(MASK, text)


@functools.lru_cache
def _pattern(key: str) -> re.Pattern[str]:
    """The key in either case, each character as it is or escaped as JSON, URLs and HTML do.

    Every repetition is bounded: a hostile server may send 64 MiB of backslashes.
    """
    return re.compile("".join(map(_any_form, key)), re.IGNORECASE)


def _any_form(character: str) -> str:
    code = ord(character)
    forms = [
        rf"\\{{0,8}}{re.escape(character)}",
        f"%(?:25){{0,4}}{code:02x}",
        rf"\\{{1,8}}u00{code:02x}",
        rf"\\{{1,8}}x{code:02x}",
        f"&#0{{0,6}}{code};",
        f"&#x0{{0,6}}{code:x};",
    ]
    named = html.escape(character)
    return f"(?:{'|'.join([*forms, *([named] if named != character else [])])})"
