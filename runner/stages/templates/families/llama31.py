"""Llama 3.1 and later: as Llama 3, with two dates above the system prompt.

The second is today's in some of these models; `prepare` pins it before anything is rendered.
"""

from dataclasses import replace

from runner.scripts.data.tokens.template_clock import PINNED, as_text
from runner.stages.templates.families.layout import Family, Turn
from runner.stages.templates.families.llama3 import ASK, HEAD, STOP, TAIL
from runner.stages.templates.families.turnwise import turnwise

_DATES = f"Cutting Knowledge Date: December 2023\nToday Date: {as_text(PINNED, '%d %b %Y')}\n\n"
_PLAIN = turnwise(HEAD, TAIL, ASK, trim=True)
_SYSTEM = Turn(HEAD.format(role="system") + _DATES, TAIL, trim=True)

FAMILY = Family(
    "llama3.1",
    (replace(_PLAIN, system=replace(_PLAIN.system, text=_SYSTEM)),),
    stop=STOP,
)
