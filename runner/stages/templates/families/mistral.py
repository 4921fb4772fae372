"""Mistral: `[INST]` around the user's words; versions differ in spaces and in the system prompt.

Versions 1 to 3 put it before the first or the last user turn's words, later ones write a turn.
"""

from runner.stages.templates.families.layout import NO_SYSTEM, Family, Layout, System, Turn

# Before and after the user's words, before and after an answer.
_SPACINGS = (
    ("[INST] ", "[/INST]", " ", "</s>"),  # version 3
    ("[INST] ", " [/INST]", " ", "</s>"),
    (" [INST] ", " [/INST]", " ", "</s>"),  # version 1, later revisions
    ("[INST] ", " [/INST]", "", "</s>"),  # version 1
    ("[INST] ", " [/INST]", "", "</s> "),
    ("[INST]", "[/INST]", "", "</s>"),  # Tekken
    ("[INST] ", "[/INST]", "", "</s>"),
)
_BEFORE_WORDS = Turn("", "\n\n")
_OWN_TURN = (
    Turn("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    Turn("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
)
_SYSTEMS = (
    System("first", _BEFORE_WORDS),
    System("last", _BEFORE_WORDS),
    System("first", _BEFORE_WORDS, skip_empty=True),
    System("last", _BEFORE_WORDS, skip_empty=True),
    *(System("front", turn, late=turn) for turn in _OWN_TURN),
    *(System("front", turn) for turn in _OWN_TURN),
    NO_SYSTEM,
)

FAMILY = Family(
    "mistral",
    tuple(
        Layout(Turn(before, after), Turn(answer, end, trim), "", system)
        for before, after, answer, end in _SPACINGS
        for system in _SYSTEMS
        for trim in (False, True)
    ),
    stop=("</s>", "[INST]", "[/INST]"),
)
