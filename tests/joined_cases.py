"""Conversations with two turns of one role in a row, which no Go template can render.

Ollama joins such turns with a blank line before its template sees them, so they are no cases of the
parity gate; tests keep watch whether a newer Ollama still does.
"""

from __future__ import annotations

from runner.scripts.data.tokens.parity_cases import Case, Message


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


JOINED_CASES: list[Case] = [
    ("consecutive-user-turns", [turn("user", "First."), turn("user", "Second.")]),
    (
        "consecutive-assistant-turns",
        [
            turn("user", "Hi."),
            turn("assistant", "One."),
            turn("assistant", "Two."),
            turn("user", "So?"),
        ],
    ),
    (
        "two-systems",
        [
            turn("system", "Be terse."),
            turn("system", "Be kind."),
            turn("user", "Hello."),
        ],
    ),
]
