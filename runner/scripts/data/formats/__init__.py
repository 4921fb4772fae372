"""Formats of data rows. To add one is a module with `parse(row)` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.formats import (
    alpaca,
    kto,
    messages,
    preference,
    prompt,
    prompt_completion,
    sharegpt,
    text,
)
from runner.scripts.data.preference import Compared
from runner.scripts.data.prompted import Prompted

FORMATS: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "messages": messages.parse,
    "alpaca": alpaca.parse,
    "sharegpt": sharegpt.parse,
    "prompt-completion": prompt_completion.parse,
    "text": text.parse,
}
# What preference methods learn from.
COMPARED: dict[str, Callable[[dict[str, Any]], Compared]] = {
    "preference": preference.parse,
    "kto": kto.parse,
}
# What methods learn from that answer themselves.
PROMPTED: dict[str, Callable[[dict[str, Any]], Prompted]] = {"prompt": prompt.parse}
# What `ppo` learns from: the last answer is not read, and where there is none its place is empty.
ASKED: Mapping[str, Callable[[dict[str, Any]], Conversation]] = {"prompt": prompt.waiting}
# For formats that need turns in order: how rows are read that are brought into order later.
ANY_ORDER: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "sharegpt": sharegpt.parse_any_order,
}
# Keys of a row that a format reads; all others are ignored.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "messages": messages.FIELDS,
    "alpaca": alpaca.FIELDS,
    "sharegpt": sharegpt.FIELDS,
    "prompt-completion": prompt_completion.FIELDS,
    "text": text.FIELDS,
    "preference": preference.FIELDS,
    "kto": kto.FIELDS,
    "prompt": prompt.FIELDS,
}
EVERY: Mapping[str, Callable[[dict[str, Any]], Conversation | Compared | Prompted]] = {
    **FORMATS,
    **COMPARED,
    **PROMPTED,
}
