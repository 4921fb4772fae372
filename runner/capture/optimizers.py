"""Optimizers of other programs by the names of a recipe's `train.optim`."""

from __future__ import annotations

import re

from runner.plan.optimizers import OPTIMIZERS

_SAME = {
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
}
# AdamW all the same: how its states are kept, or by which kernel, is all that differs.
_ALSO_ADAMW = re.compile(
    r"adamw|adamw_(bnb_)?32bit|adamw_hf|adamw_apex_fused|adamw_torch_\w+|adamw_anyprecision|optimi_adamw"
    r"|ao_adamw_\w+|flash_adamw"
)


def optimizer_named(word: str) -> tuple[str, str, bool]:
    """A recipe's name for it, what is not the same ("": nothing), and whether it is another one."""
    word = word.lower()
    word = _SAME.get(word, word)
    if word in OPTIMIZERS:
        return word, "", False
    if _ALSO_ADAMW.fullmatch(word):
        return "adamw_torch", "AdamW too, with its states in 32 bits", False
    why = f"a recipe has {', '.join(sorted(OPTIMIZERS))}"
    return "adamw_torch", why, True
