"""Phi-3 and Phi-4-mini: `<|role|>`, the content, `<|end|>`; the former with line breaks."""

from dataclasses import replace

from runner.stages.templates.families.layout import NO_SYSTEM, Family
from runner.stages.templates.families.turnwise import turnwise

_PHI3 = turnwise("<|{role}|>\n", "<|end|>\n", "<|assistant|>\n")
_PHI4_MINI = turnwise("<|{role}|>", "<|end|>", "<|assistant|>")

FAMILY = Family(
    "phi3",
    (
        _PHI3,
        replace(_PHI3, system=replace(_PHI3.system, skip_empty=True)),
        replace(_PHI3, system=replace(_PHI3.system, skip_empty=True, late=None)),
        _PHI4_MINI,
        replace(_PHI4_MINI, system=replace(_PHI4_MINI.system, skip_empty=True)),
        replace(_PHI3, system=NO_SYSTEM),
    ),
    stop=("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
)
