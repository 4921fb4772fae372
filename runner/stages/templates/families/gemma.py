"""Gemma: the roles are `user` and `model`; there is no system turn, at most a text before it."""

from runner.stages.templates.families.layout import NO_SYSTEM, Family, Layout, System, Turn

_BEFORE_WORDS = Turn("", "\n\n")
_SYSTEMS = (
    System("first", _BEFORE_WORDS),  # Gemma 3
    System("first", _BEFORE_WORDS, skip_empty=True),
    System("first", Turn("", "\n\n", trim=True)),
    System("first", _BEFORE_WORDS, trims_user=True),
    NO_SYSTEM,  # Gemma 1 and 2
)

FAMILY = Family(
    "gemma",
    tuple(
        Layout(
            Turn("<start_of_turn>user\n", "<end_of_turn>\n", trim),
            Turn("<start_of_turn>model\n", "<end_of_turn>\n", trim),
            "<start_of_turn>model\n",
            system,
        )
        for trim in (True, False)
        for system in _SYSTEMS
    ),
    stop=("<start_of_turn>", "<end_of_turn>"),
)
