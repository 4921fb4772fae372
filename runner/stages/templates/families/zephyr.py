"""Zephyr, TinyLlama, StableLM: `<|role|>`, a line break, the content, `</s>`."""

from runner.stages.templates.families.layout import Family
from runner.stages.templates.families.turnwise import turnwise

FAMILY = Family(
    "zephyr",
    tuple(
        turnwise("<|{role}|>\n", tail, ask)
        for ask in ("<|assistant|>\n", "<|assistant|>")
        for tail in ("</s>\n", "<|endoftext|>\n")
    ),
    stop=("</s>", "<|system|>", "<|user|>", "<|assistant|>"),
)
