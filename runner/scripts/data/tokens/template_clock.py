"""No chat template reads the clock: the date it asks for is pinned. Standard library only.

Transformers and llama.cpp both give templates `strftime_now`. A template that uses it would render
other tokens tomorrow. The calls are replaced by their text in the template itself, which is what is
trained with, kept beside the adapter and written into the GGUF file.
"""

from __future__ import annotations

import datetime
import re

from runner.scripts.spec import ScriptError

# The date that Llama 3.1's own template falls back to.
PINNED = datetime.date(2024, 7, 26)
_CALL = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_MENTION = re.compile(r"strftime_now(?!\s+is\s+(not\s+)?defined)")
_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


def pinned(template: str) -> str:
    """The template with every `strftime_now("...")` replaced by the pinned date as a text."""
    return _CALL.sub(lambda call: f'"{_text_of(call[1] or call[2] or "")}"', template)


def as_text(date: datetime.date, form: str) -> str:
    """`strftime` in English on every machine; midnight where a time is asked for."""
    names = {
        "B": _MONTHS.split()[date.month - 1],
        "b": _MONTHS.split()[date.month - 1][:3],
        "h": _MONTHS.split()[date.month - 1][:3],
        "A": _DAYS.split()[date.weekday()],
        "a": _DAYS.split()[date.weekday()][:3],
    }
    form = re.sub(r"%([BbhAa])", lambda found: names[found[1]], form)
    return datetime.datetime.combine(date, datetime.time()).strftime(form)


def check_no_clock(template: str) -> None:
    """Raises ScriptError E557 when a pinned template still mentions the clock, used or not."""
    found = _MENTION.search(template)
    if found is None:
        return
    raise ScriptError(
        "the chat template asks for the date in a way that cannot be pinned: "
        f"{template[found.start() : found.start() + 60]!r}",
        hint='write the format into the call, as in strftime_now("%d %b %Y"), in a template of '
        "your own, and give it by data.chat_template",
        code="E557",
    )


def _text_of(form: str) -> str:
    return as_text(PINNED, form).replace("\\", "\\\\").replace('"', '\\"')
