"""Words, case and composed characters of a text, the same under every version of Python.

What `str.lower`, `str.isalnum` and `unicodedata` say of a character may differ from one version of
Python to the next, because each brings a newer Unicode. Every version also carries Unicode 3.2, and
what Unicode says of the characters in it no longer changes. Other characters are left as they are.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import groupby

_OLD = unicodedata.ucd_3_2_0
# Written without spaces between words: each character counts as a word. First and last of a range.
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # Chinese and Japanese
    (0x31A0, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


@cache
def is_known(character: str) -> bool:
    """Is it in Unicode 3.2?"""
    return _OLD.category(character) != "Cn"


def nfc(text: str) -> str:
    """The text with composed characters (NFC), as far as Unicode 3.2 goes."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    runs = (
        (known, "".join(characters))
        for known, characters in ((key, group) for key, group in groupby(text, is_known))
    )
    return "".join(unicodedata.normalize("NFC", run) if known else run for known, run in runs)


class _Folded(dict[int, str]):
    """Code point -> what stands for it where case does not matter. Filled as it is asked."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character.casefold() if is_known(character) else character
        return self[code]


class _Spaced(dict[int, str]):
    """Code point -> its part of a word, folded; a space for what separates words."""

    def __missing__(self, code: int) -> str:
        self[code] = _part_of_word(chr(code))
        return self[code]


def _part_of_word(character: str) -> str:
    if not is_known(character) or _stands_alone(ord(character)):
        return f" {character} "
    if _OLD.category(character)[0] in "LMN":
        return character.casefold()
    return " "


def _stands_alone(code: int) -> bool:
    return any(first <= code <= last for first, last in _WITHOUT_SPACES)


_FOLDED, _SPACED = _Folded(), _Spaced()


def folded(text: str) -> str:
    """The text without differences of case."""
    return text.translate(_FOLDED)


def words_of(text: str) -> list[str]:
    """Its words, folded; punctuation is none, a character of Chinese or Thai is one."""
    return text.translate(_SPACED).split()
