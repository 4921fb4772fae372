"""What the canary found, in a line for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

_KINDS = {
    "untrained": "the base model's weights are random: nothing is expected of it",
    "small": "the base model is so small that how well it reads text is not judged",
    "unread": "the base model scores answers: what it reads is not looked at",
}


def canary_line(found: Mapping[str, Any], when: float) -> str:
    """`when`: seconds since 1970 at which it was found."""
    if "seconds_left" in found:
        left = float(found["seconds_left"])
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(when + left))
        return f"at this speed the training takes {duration(left)} more, until {until}"
    if found.get("base") in _KINDS:
        return f"checked: {_KINDS[found['base']]}"
    bits = f"{found['text_bits']:.2f} bits a byte of our text"
    if found.get("data_bits") is not None:
        bits += f", {found['data_bits']:.2f} of your data"
    return f"checked: the base model reads ({bits})"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
