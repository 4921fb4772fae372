"""Llama 2: `[INST]` around the user's words, the system prompt inside of the first, trimmed.

Each exchange begins with a BOS of its own; the first one is not the layout's.
"""

from runner.stages.templates.families.layout import NO_SYSTEM, Family, Layout, System, Turn

_SYSTEM = Turn("<<SYS>>\n", "\n<</SYS>>\n\n")


def _layout(system: System, *, trim: bool) -> Layout:
    user = Turn("[INST] ", " [/INST]", trim)
    return Layout(user, Turn(" ", " </s><s>", trim), "", system)


FAMILY = Family(
    "llama2",
    (
        _layout(System("first", _SYSTEM, trims_user=True), trim=True),
        _layout(System("first", _SYSTEM, trims_user=True, skip_empty=True), trim=True),
        _layout(System("first", _SYSTEM), trim=False),
        _layout(NO_SYSTEM, trim=True),
        _layout(NO_SYSTEM, trim=False),
    ),
    stop=("</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)
