"""Phi-4: ChatML's tokens with `<|im_sep|>` after the role and no line breaks."""

from runner.stages.templates.families.layout import Family
from runner.stages.templates.families.turnwise import turnwise

FAMILY = Family(
    "phi4",
    (turnwise("<|im_start|>{role}<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),),
    stop=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
)
