"""What a recipe may be for: `recipe new` asks for one. To add one is a line in GOALS."""

from __future__ import annotations

from dataclasses import dataclass

from runner.recipe.methods import METHODS

DEFAULT = "chat"


@dataclass(frozen=True, slots=True)
class Goal:
    """`sections` are the stages behind the training; `formats` the rows that the method takes."""

    what: str
    method: str
    sections: tuple[str, ...]
    formats: tuple[str, ...]


def _goal(what: str, method: str, *sections: str) -> Goal:
    return Goal(what, method, sections, METHODS[method].formats)


_TO_OLLAMA = ("evaluate", "merge", "gguf", "ollama", "benchmark")

# `ppo` is not among them: it needs a reward model, which is another recipe.
GOALS = {
    "chat": _goal("supervised fine-tuning, to a model that answers in Ollama", "sft", *_TO_OLLAMA),
    "gguf": _goal(
        "supervised fine-tuning, to GGUF files for llama.cpp", "sft", "evaluate", "merge", "gguf"
    ),
    "sft": _goal(
        "supervised fine-tuning, to an adapter (or weights) and its evaluation", "sft", "evaluate"
    ),
    "pretrain": _goal(
        "reading on in plain texts, to weights and the loss before and after",
        "pretrain",
        *("evaluate", "merge"),
    ),
    "dpo": _goal("from pairs, the better answer made likelier than the other", "dpo", *_TO_OLLAMA),
    "orpo": _goal("from pairs, imitation and preference in one training", "orpo", *_TO_OLLAMA),
    "simpo": _goal("from pairs, without a reference model", "simpo", *_TO_OLLAMA),
    "kto": _goal("from single answers, each called good or bad", "kto", *_TO_OLLAMA),
    "reward": _goal("from pairs, a model that scores answers", "reward", "evaluate"),
    "grpo": _goal("from questions, by rewards for the model's own answers", "grpo", *_TO_OLLAMA),
}
# What rows are for, where nobody says it; of those that are not here it is DEFAULT.
_BY_FORMAT = {"preference": "dpo", "kto": "kto", "prompt": "grpo", "text": "pretrain"}


def goal_of(data_format: str) -> str:
    """The goal that rows of this format most often have.

    >>> goal_of("preference"), goal_of("alpaca")
    ('dpo', 'chat')
    """
    return _BY_FORMAT.get(data_format, DEFAULT)


def goals_for(data_format: str) -> list[str]:
    """Every goal that can use such rows, the usual one first."""
    able = [name for name, goal in GOALS.items() if data_format in goal.formats]
    return sorted(able, key=lambda name: name != goal_of(data_format))
