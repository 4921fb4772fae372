"""ChatML: `<|im_start|>role`, a line break, the content, `<|im_end|>`. SmolLM2, Qwen2.5, Yi, …"""

from runner.stages.templates.families.layout import Family
from runner.stages.templates.families.turnwise import turnwise

HEAD, TAIL, ASK = "<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n"

FAMILY = Family(
    "chatml",
    (turnwise(HEAD, TAIL, ASK), turnwise(HEAD, TAIL, ASK, trim=True)),
    stop=("<|im_start|>", "<|im_end|>"),
)
