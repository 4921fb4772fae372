"""DeepSeek V2.5 to R1: role tokens, an end-of-sentence token after answers, a bare system prompt.

Former answers lose their thinking in the later ones, which also ask for it.
"""

from runner.stages.templates.families.layout import Family, Layout, System, Turn

_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"
_USER, _ASSISTANT = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"

FAMILY = Family(
    "deepseek",
    tuple(
        Layout(
            Turn(_USER, ""),
            Turn(_ASSISTANT, _END),
            ask,
            System("front", Turn("", "")),
            drops_thinking=drops,
            keeps_breaks=True,
        )
        for ask in (_ASSISTANT, f"{_ASSISTANT}<think>\n")
        for drops in (True, False)
    ),
    stop=(_USER, _ASSISTANT, _END),
)
