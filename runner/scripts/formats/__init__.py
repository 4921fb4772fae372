"""Formats of data rows. To add one is a module with `parse(row)` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.scripts.conversation import Conversation
from runner.scripts.formats import alpaca, messages, prompt_completion, sharegpt, text

FORMATS: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "messages": messages.parse,
    "alpaca": alpaca.parse,
    "sharegpt": sharegpt.parse,
    "prompt-completion": prompt_completion.parse,
    "text": text.parse,
}
