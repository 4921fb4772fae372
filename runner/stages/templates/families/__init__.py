"""The known kinds of chat templates. To add one is one module and one line here."""

from __future__ import annotations

from runner.stages.templates.families import (
    chatml,
    command_r,
    deepseek,
    gemma,
    llama2,
    llama3,
    llama31,
    mistral,
    phi3,
    phi4,
    qwen3,
    zephyr,
)
from runner.stages.templates.families.layout import Family

# In the order in which they are tried: of two that render alike the first is taken.
FAMILIES: tuple[Family, ...] = (
    chatml.FAMILY,
    llama3.FAMILY,
    llama31.FAMILY,
    llama2.FAMILY,
    mistral.FAMILY,
    gemma.FAMILY,
    phi3.FAMILY,
    phi4.FAMILY,
    zephyr.FAMILY,
    qwen3.FAMILY,
    command_r.FAMILY,
    deepseek.FAMILY,
)
