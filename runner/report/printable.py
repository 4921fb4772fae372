"""Text from a stranger's file, made safe for a terminal.

A recipe may come from anybody's pull request. Control characters could rewrite the screen, and
direction marks could show a line other than the one that is read, so neither is ever printed.
"""

from __future__ import annotations

import re

# A token of the hub: `hf_` and 34 letters and digits, or an organisation's; the key of an API.
_TOKEN = re.compile(r"\b(hf_|api_org_|sk-)(?:(?<=_)[A-Za-z0-9]{30,}|(?<=-)[A-Za-z0-9_-]{20,})")
# What stands at a key that asks for a secret, or the name of one; and the secrets in an address.
_SECRET_KEY = r"""(?<![\w-])["']?(?:key|api_?key|token|secret|password)["']?\s*:"""
_AT_SECRET_KEY = re.compile(
    rf"""({_SECRET_KEY}\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"'][^,}}#]*)""", re.IGNORECASE
)
_NAMES = re.compile(r"""["']?(?:[A-Z][A-Z0-9_]{0,63}|null|~)["']?\s*""")
_IN_ADDRESS = re.compile(r"""(?<=://)[^\s/"'@]+(?=@)|(?<=\?)[^\s"',}]+""")
_SHORT_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def escaped(text: str) -> str:
    """`text` with every unprintable character as the escape that YAML and Python both read."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escape(character) for character in text
    )


def lines_escaped(text: str) -> str:
    """`text` of several lines, escaped but for the line ends and tabs."""
    if text.isprintable():
        return text
    return re.sub(r"[^\n\t]+", lambda found: escaped(found[0]), text)


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


def without_secrets(line: str, before: str = "") -> str:
    """A line of a recipe, as it may be shown: stars for tokens and for what stands at `key:`.

    `before` is the line above it, whose value may begin here. Names of variables stay.
    """
    if _value_follows(before):
        return re.sub(r"\S", "*", line)
    line = _AT_SECRET_KEY.sub(_starred, without_tokens(line))
    return _IN_ADDRESS.sub(lambda found: "*" * len(found[0]), line) if "://" in line else line


def _value_follows(line: str) -> bool:
    """Ends it with a key of a secret, behind which at most `|`, an anchor or a comment stands?"""
    _, *rests = re.split(_SECRET_KEY, line, flags=re.IGNORECASE)
    return bool(rests) and all(word[0] in "|>&!" for word in rests[-1].partition("#")[0].split())


def _starred(found: re.Match[str]) -> str:
    named = _NAMES.fullmatch(found[2])
    return found[0] if named else found[1] + re.sub(r"\S", "*", found[2])


def _escape(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
