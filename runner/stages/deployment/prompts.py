"""prompts.jsonl of the stage `prepare`: the conversations that parity is checked on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line: what is sent, and what the model's own template and tokenizer make of it."""

    id: str
    kind: str  # validation | hard
    messages: tuple[Message, ...]
    text: str
    ids: tuple[int, ...]


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of the file, in its order."""
    # Not splitlines: the texts hold U+2028, which it takes for the end of a line.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_prompt(line) for line in lines if line]


def _prompt(line: str) -> Prompt:
    data = json.loads(line)
    return Prompt(
        data["id"], data["kind"], tuple(data["messages"]), data["text"], tuple(data["ids"])
    )
