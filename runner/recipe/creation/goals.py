"""What a recipe may be for: `recipe new` asks for one. To add one is a line in GOALS."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """`sections` are the stages behind the training; `formats` the rows that the method takes."""

    what: str
    method: str
    sections: tuple[str, ...]
    formats: tuple[str, ...]


_ROWS = ("messages", "alpaca", "sharegpt", "prompt-completion", "text")

GOALS = {
    "chat": Goal(
        "supervised fine-tuning, to a model that answers in Ollama",
        "sft",
        ("evaluate", "merge", "gguf", "ollama", "benchmark"),
        _ROWS,
    ),
    "gguf": Goal(
        "supervised fine-tuning, to GGUF files for llama.cpp",
        "sft",
        ("evaluate", "merge", "gguf"),
        _ROWS,
    ),
    "sft": Goal(
        "supervised fine-tuning, to an adapter (or weights) and its evaluation",
        "sft",
        ("evaluate",),
        _ROWS,
    ),
}
