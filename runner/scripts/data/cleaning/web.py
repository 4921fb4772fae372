"""What is left of a web page: entities, tags of its layout, and lines of its navigation.

Code between backquotes is not touched, nor is a row that talks about such things.
"""

from __future__ import annotations

import html
import re

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import SAID, Row, changed, texts_of
from runner.scripts.data.cleaning.words import folded, is_known, words_of

_ROUNDS = 8  # an entity may hide a tag, a tag another one
# Whoever says one of these may mean the tags that stand in the row.
_WORDS = "html xml svg xhtml css tag tags markup markdown javascript jsx dom"
_ABOUT = frozenset(_WORDS.split())
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]{1,400}`)", re.DOTALL)
_AMPERSAND = re.compile(r"&(?:(?:#0*+38|#[xX]0*+26|[aA][mM][pP]);)++", re.ASCII)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});", re.ASCII)
_UNSEEN = re.compile(r"<(script|style|noscript|iframe)\b[^<>]{0,500}>", re.ASCII | re.IGNORECASE)
_LAYOUT = (
    "a|abbr|article|aside|b|big|blockquote|body|br|button|caption|center|cite|col|colgroup|dd|div|dl"
    "|dt|em|fieldset|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input"
    "|ins|label|li|link|main|meta|nav|noscript|ol|option|p|script|section|select|small|span|strike"
    "|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
_TAG = re.compile(rf"<(/?)({_LAYOUT})(?:\s[^<>]{{0,500}})?/?>", re.ASCII | re.IGNORECASE)
_BLOCKS = "br p div li tr h1 h2 h3 h4 h5 h6 hr ul ol table blockquote section article"
_BREAKS = frozenset(_BLOCKS.split())
_COMMENT = "<!--", "-->"

_LONGEST_LINE = 200  # characters of a line of navigation
# Lines that are nothing else; dots and arrows at their ends do not count.
_LINES = frozenset(
    (
        "accept", "accept all", "accept cookies", "accept all cookies", "reject all", "click here",
        "cookie policy", "cookie settings", "manage cookies", "continue reading", "read more",
        "learn more", "show more", "load more", "skip to content", "skip to main content",
        "back to top", "all rights reserved", "share this", "share this article", "share this post",
        "share on facebook", "share on twitter", "share on x", "share on linkedin", "tweet",
        "follow us", "follow us on twitter", "follow us on facebook", "sign up", "sign in",
        "log in", "subscribe", "subscribe now", "subscribe to our newsletter",
        "sign up for our newsletter", "advertisement", "sponsored", "related posts",
        "related articles", "leave a comment",
        "leave a reply", "post a comment", "print this page", "privacy policy", "terms of service",
        "terms of use", "enable javascript", "please enable javascript", "toggle navigation",
    )
)  # fmt: skip
_BEGINNINGS = (
    "we use cookies", "this site uses cookies", "this website uses cookies",
    "our site uses cookies", "our website uses cookies", "by continuing to use this site",
    "by continuing to browse",
    "by using this site you agree", "by using this website you agree", "click here to",
    "click here for", "subscribe to our newsletter", "sign up for our newsletter",
    "share this on facebook", "you need to enable javascript", "please enable javascript",
)  # fmt: skip


def without_web_text(row: Row) -> Row | Drop:
    """The row without what is left of a web page in the turns of user and assistant, or its text.

    A row of which a text would be nothing else is left out.
    """
    made = {text: cleaned(text) for text in texts_of(row, SAID)}
    if all(text == new for text, new in made.items()) or any(map(_is_about_pages, made)):
        return row
    emptied = [text for text, new in made.items() if text.strip() and not new.strip()]
    return (
        Drop("nothing else in a text", emptied[0])
        if emptied
        else changed(row, made.__getitem__, SAID)
    )


def _is_about_pages(text: str) -> bool:
    return not _ABOUT.isdisjoint(words_of(_without_navigation(_TAG.sub(" ", text))))


def cleaned(text: str) -> str:
    """The text without entities, tags of layout and lines of navigation, outside of code."""
    parts = _CODE.split(text)
    return "".join(part if number % 2 else _prose(part) for number, part in enumerate(parts))


def _prose(text: str) -> str:
    for _ in range(_ROUNDS):
        plain = _without_tags(_without_entities(text))
        if plain == text:
            break
        text = plain
    return _without_navigation(text)


def _without_entities(text: str) -> str:
    if "&" not in text:
        return text
    text = _AMPERSAND.sub("&", text)  # in one go, however often it was escaped
    return _ENTITY.sub(lambda found: html.unescape(found.group()), text)


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    return _TAG.sub(_in_place, _without_comments(_without_unseen(text)))


def _in_place(tag: re.Match[str]) -> str:
    """A newline for a tag that breaks a line, a space for a cell, nothing for others."""
    text, name = tag.string, tag.group(2).lower()
    before = text[tag.start() - 1] if tag.start() else " "
    if len(name) == 1 and not tag.group(1) and _joins(before) and tag.group()[2:] == ">":
        return tag.group()  # List<A>
    if name in _BREAKS:
        return "\n"
    return " " if name in ("td", "th") else ""


def _joins(character: str) -> bool:
    """Is it of a word? What only newer versions of Python know is not."""
    return character.isalnum() and is_known(character)


def _without_unseen(text: str) -> str:
    """Without what a page holds and does not show, where it ends."""
    parts, position, endless = [], 0, set()
    for begin in _UNSEEN.finditer(text):
        name = begin.group(1).lower()
        if begin.start() < position or name in endless:
            continue
        end = re.compile(rf"</{name}\s{{0,9}}>", re.ASCII | re.IGNORECASE).search(text, begin.end())
        if end is None:
            endless.add(name)
            continue
        parts.append(text[position : begin.start()])
        position = end.end()
    return "".join([*parts, text[position:]])


def _without_comments(text: str) -> str:
    opening, closing = _COMMENT
    parts, position = [], 0
    while (begin := text.find(opening, position)) >= 0:
        end = text.find(closing, begin)
        if end < 0:
            break
        parts.append(text[position:begin])
        position = end + len(closing)
    return "".join([*parts, text[position:]])


def _without_navigation(text: str) -> str:
    lines = text.split("\n")
    kept = [line for line in lines if not _is_navigation(line)]
    return text if len(kept) == len(lines) else "\n".join(kept)


def _is_navigation(line: str) -> bool:
    if len(line) > _LONGEST_LINE or not line.strip():
        return False
    plain = folded(line).strip(" \t\r.!:|>»→…*[]()-–—•·©")  # noqa: RUF001
    return plain in _LINES or plain.replace(",", "").startswith(_BEGINNINGS)
