"""Keys, tokens and passwords in a text: by their shape, what is in them, how random they are.

Every expression takes time in proportion to the text: it starts at the border of a word, repeats
possessively or within a bound, and never backtracks over what it has read.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

from runner.scripts.data.cleaning.masks import Span, masked

WHAT = "SECRET"
# Shapes of tokens that their makers mark by a prefix.
_MARKED = re.compile(
    r"(?<![A-Za-z0-9_-])(?=[ASghnprsx])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS access keys
    r"|gh[pousr]_[A-Za-z0-9]{36,251}"  # GitHub
    r"|github_pat_[A-Za-z0-9_]{82}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"  # GitLab
    r"|xox[abeprs]-[A-Za-z0-9-]{10,250}"  # Slack
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|[rs]k_live_[A-Za-z0-9]{20,247}"  # Stripe
    r"|sk-[A-Za-z0-9_-]{20,250}"  # OpenAI, Anthropic
    r"|hf_[A-Za-z0-9]{30,40}"  # Hugging Face
    r"|npm_[A-Za-z0-9]{36}"
    r"|pypi-AgE[A-Za-z0-9_-]{50,250}"
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"  # SendGrid
    r")(?![A-Za-z0-9_-])",
    re.ASCII,
)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(eyJ[A-Za-z0-9_-]{8,}+)\.eyJ[A-Za-z0-9_-]{4,}+\.[A-Za-z0-9_-]{16,}+",
    re.ASCII,
)
_KEY_BORDER = re.compile(
    r"-----(BEGIN|END) (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----", re.ASCII
)
_KEY_BODY = re.compile(r"(?:(?:\\[rn]|\s){0,4}+[A-Za-z0-9+/=]{20,}+)*+", re.ASCII)
_LEAST_BODY, _MOST_BODY = 32, 20_000  # characters; less is a sketch of a key
_PASSWORD_IN_URL = re.compile(r"://[^\s/:@\[\]]{1,64}+:([^\s/@\[\]]{3,128}+)@", re.ASCII)
_NAMED = re.compile(
    r"(?:password|passwd|pwd|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|auth[_-]?key|secret[_-]?key)"
    r"[\"']?[ \t]{0,3}(?::=|=>|[:=])[ \t]{0,3}[\"']?"
    r"([A-Za-z0-9+/_=-]{16,}+)",
    re.ASCII | re.IGNORECASE,
)
# What people choose has few characters and no randomness, so it has to be called a password, and to
# hold more than letters. Names of a program (`settings.password2`), calls and paths are none.
_PASSWORD = re.compile(
    r"(?<![A-Za-z0-9])(?:password|passwd|passphrase|pwd|passwort|kennwort)[\"']?[ \t]{0,3}"
    r"(?::=|=>|[:=])[ \t]{0,3}([\"'`]?)([^\s\"'`,;<>{}()\[\]|\\/]{6,64}+)(?![(\[/\\])",
    re.ASCII | re.IGNORECASE,
)
_NAME = re.compile(r"[$%]|[A-Za-z_]++[A-Za-z0-9_]*+(?:\.[A-Za-z_]++[A-Za-z0-9_]*+)+$", re.ASCII)
_SPECIAL = re.compile(r"[0-9!@#$%^&*?]", re.ASCII)
_LETTER = re.compile(r"[A-Za-z]", re.ASCII)
_LEAST_BITS = 3.0  # a character, of marked tokens: `ghp_xxxxxxxx` has 0
_LEAST_NAMED_BITS = 3.5


def without_secrets(text: str) -> str:
    """The text with [SECRET] over every secret."""
    return masked(text, (secrets_in,))


def secrets_in(text: str) -> Iterator[Span]:
    """Where there are secrets."""
    for found in _MARKED.finditer(text):
        if _is_random(found.group(), _LEAST_BITS) and "EXAMPLE" not in found.group():
            yield (*found.span(), WHAT)
    for found in _TOKEN.finditer(text) if "eyJ" in text else ():
        if _is_header(found.group(1)):
            yield (*found.span(), WHAT)
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    for found in _PASSWORD_IN_URL.finditer(text) if "://" in text else ():
        if not _is_placeholder(found.group(1)):
            yield (*found.span(1), WHAT)
    for found in _NAMED.finditer(text):
        if _is_random(found.group(1), _LEAST_NAMED_BITS) and "EXAMPLE" not in found.group(1):
            yield (*found.span(1), WHAT)
    for found in _PASSWORD.finditer(text):
        yield from _chosen(found)


def _chosen(found: re.Match[str]) -> Iterator[Span]:
    """What is called a password, where it can be one; the end of a sentence is no part of it."""
    written = found.group(2) if found.group(1) else found.group(2).rstrip(".!?:*")
    if len(written) < 6 or _NAME.match(written) or _is_placeholder(written.rstrip("0123456789")):
        return
    if _SPECIAL.search(written) and _LETTER.search(written):
        yield found.start(2), found.start(2) + len(written), WHAT


def _private_keys(text: str) -> Iterator[Span]:
    """From the line where a key begins to the one where it ends, or as far as it goes."""
    begins: re.Match[str] | None = None
    for border in _KEY_BORDER.finditer(text):
        if border.group(1) == "END" and begins and border.start() - begins.end() <= _MOST_BODY:
            yield from _key(text, begins, border.start(), border.end())
            begins = None
            continue
        if begins:
            yield from _cut_off(text, begins)
        begins = border if border.group(1) == "BEGIN" else None
    if begins:
        yield from _cut_off(text, begins)


def _cut_off(text: str, begins: re.Match[str]) -> Iterator[Span]:
    body = _KEY_BODY.match(text, begins.end())
    if body:
        yield from _key(text, begins, body.end(), body.end())


def _key(text: str, begins: re.Match[str], stop: int, end: int) -> Iterator[Span]:
    if len(text[begins.end() : stop].strip()) >= _LEAST_BODY:
        yield begins.start(), end, WHAT


def _is_header(part: str) -> bool:
    """Is it the first part of a JSON Web Token: an object with the algorithm's name?"""
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _is_random(token: str, least: float) -> bool:
    """Letters and digits that differ, as those of a generator do; words have no digits in them."""
    mixed = any(c.isdigit() for c in token) and any(c.isalpha() for c in token)
    return mixed and entropy(token[:256]) >= least


def entropy(token: str) -> float:
    """Bits a character, rounded so that every machine gets the same."""
    counts = sorted(Counter(token).values())
    return round(-sum(n / len(token) * math.log2(n / len(token)) for n in counts), 6)


def _is_placeholder(password: str) -> bool:
    """`pass`, `<password>`, `$PASSWORD`, `***`: what stands where a password would."""
    word = password.strip("<>{}$*.%").lower()
    return not word or word in {
        "pass",
        "password",
        "passwd",
        "pwd",
        "secret",
        "xxx",
        "token",
        "key",
    }
