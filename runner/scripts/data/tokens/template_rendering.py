"""Rendering by transformers itself, within the limits: to compare with, or to ask a model by.

Nothing is tokenised within the limits: a tokenizer may start threads, which need address space.
Standard library only; the tokenizer is transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.scripts.data.tokens.template_limits import limited


def rendered(
    tokenizer: Any, template: str | None, messages: Sequence[Any], *, generate: bool
) -> str:
    """The text of `messages` by `apply_chat_template`; `template` replaces the tokenizer's own.

    Raises RowError E326 for a template that refuses or fails, and Runaway.
    """
    with limited():
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=generate, tokenize=False
        )
    return str(text)


def rendered_ids(
    tokenizer: Any, template: str | None, messages: Sequence[Any], *, generate: bool
) -> list[int]:
    """Token ids of what `rendered` gives, as `apply_chat_template` makes them."""
    text = rendered(tokenizer, template, messages, generate=generate)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
