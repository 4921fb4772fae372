"""Qwen3: ChatML whose former answers lose their thinking, and that may ask for an answer without.

`ask` ends with an empty thinking block where thinking is off, or with an open one where the model
always thinks.
"""

from runner.stages.templates.families.chatml import ASK, HEAD, TAIL
from runner.stages.templates.families.layout import Family
from runner.stages.templates.families.turnwise import turnwise

ASKS = (ASK, f"{ASK}<think>\n\n</think>\n\n", f"{ASK}<think>\n")

FAMILY = Family(
    "qwen3",
    (
        *(turnwise(HEAD, TAIL, ask, drops_thinking=True) for ask in ASKS),
        *(turnwise(HEAD, TAIL, ask) for ask in ASKS[1:]),
    ),
    stop=("<|im_start|>", "<|im_end|>"),
)
