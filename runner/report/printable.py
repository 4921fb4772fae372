"""Text from a stranger's file, made safe for a terminal.

A recipe may come from anybody's pull request. Control characters could rewrite the screen, and
direction marks could show a line other than the one that is read, so neither is ever printed.
"""

from __future__ import annotations

import re

# A token of the hub: `hf_` and 34 letters and digits, or an organisation's; the key of an API.
_TOKEN = re.compile(r"\b(hf_|api_org_|sk-)(?:(?<=_)[A-Za-z0-9]{30,}|(?<=-)[A-Za-z0-9_-]{20,})")
_SHORT_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def escaped(text: str) -> str:
    """`text` with every unprintable character as the escape that YAML and Python both read."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escape(character) for character in text
    )


def quoted(text: str, limit: int | None = None) -> str:
    """`text` as a double-quoted YAML scalar; longer than `limit` characters it ends in "...".

    Without a limit the result reads back as the same text.
    """
    if limit is not None:
        text = without_tokens(text)  # before a part of one is cut off, which nothing would find
        text = text if len(text) <= limit else text[: limit - 3] + "..."
    return '"' + escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def one_column_each(text: str) -> str:
    """`text` with every unprintable character replaced by one "?": columns stay in place."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character == "\t" else "?"
        for character in text
    )


def holds_token(text: str) -> bool:
    """Is there something in `text` that looks like a token of the hub?"""
    return _TOKEN.search(text) is not None


def without_tokens(text: str) -> str:
    """`text` with every token of the hub replaced by as many stars: columns stay in place."""
    return _TOKEN.sub(lambda found: found[1] + "*" * (len(found[0]) - len(found[1])), text)


def _escape(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
