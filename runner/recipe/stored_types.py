"""Repositories whose weights are stored in few bits: told by the end of their names."""

from __future__ import annotations

import re

# Ends that converters and quantisers give to repositories; their base's name stands before it.
_FEW_BITS = re.compile(
    r"(?i)[-_.](?:GGUF|AWQ|GPTQ|EXL2|unsloth-bnb-4bit|bnb-4bit|bnb-8bit|4bit|8bit|int4|int8|fp8"
    r"|AWQ-INT4|GPTQ-Int[48]|w4a16|mlx)$"
)


def trainable_twin(hub: str) -> str | None:
    """The repository that `hub` was made from, by its name; None: nothing says that it is one."""
    found = _FEW_BITS.search(hub)
    while found and found.start() > hub.index("/") + 1:
        hub = hub[: found.start()]
        again = _FEW_BITS.search(hub)
        if again is None:
            return hub
        found = again
    return None
