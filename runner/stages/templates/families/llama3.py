"""Llama 3: header tokens around the role, trimmed content, `<|eot_id|>`."""

from runner.stages.templates.families.layout import Family
from runner.stages.templates.families.turnwise import turnwise

HEAD, TAIL = "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"
ASK = HEAD.format(role="assistant")
STOP = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

FAMILY = Family(
    "llama3",
    (turnwise(HEAD, TAIL, ASK, trim=True), turnwise(HEAD, TAIL, ASK)),
    stop=STOP,
)
