"""Ollama's Go template for a model, found by behaviour.

Ollama renders a conversation by a Go template of its own, not by the model's Jinja. Each family
here is a Go template with a Python twin of how Ollama renders it. A family fits when its twin gives
every reference prompt exactly. That the real server renders like the twin is not believed but
checked, by the parity gate of the stage `ollama`.
See docs/decisions/0002-ollama-template-and-parity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.errors import StageFailed
from runner.stages.prompts import Message, Prompt


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of template. `turn` renders one turn, `end` asks for the answer."""

    name: str
    go_template: str
    # Put before `go_template` when a missing system turn must become an empty one, which Ollama
    # cannot store as a system prompt.
    go_empty_system: str
    stop: tuple[str, ...]
    turn: Callable[[str, str], str]
    end: str

    def render(self, messages: Sequence[Message], system: str | None) -> str:
        """What Ollama renders when the model's default system prompt is `system`."""
        filled = list(messages)
        if system is not None and (not filled or filled[0]["role"] != "system"):
            filled.insert(0, {"role": "system", "content": system})
        return "".join(self.turn(*turn) for turn in join_turns(filled)) + self.end


@dataclass(frozen=True, slots=True)
class Choice:
    """What is sent to Ollama: template, default system prompt (None: none), stop strings."""

    family: str
    template: str
    system: str | None
    stop: tuple[str, ...]


CHATML = Family(
    name="chatml",
    go_template=(
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n"
    ),
    go_empty_system=(
        '{{- if ne (index .Messages 0).Role "system" }}<|im_start|>system\n<|im_end|>\n{{ end }}'
    ),
    stop=("<|im_start|>", "<|im_end|>"),
    turn=lambda role, content: f"<|im_start|>{role}\n{content}<|im_end|>\n",
    end="<|im_start|>assistant\n",
)

FAMILIES: tuple[Family, ...] = (CHATML,)


def choose(prompts: Sequence[Prompt], families: Sequence[Family] = FAMILIES) -> Choice:
    """The first family that renders every prompt exactly.

    Raises StageFailed (E551) naming, for the family that gets furthest, the first prompt that
    differs, with both texts.
    """
    if not prompts:
        raise StageFailed(
            "there is no prompt to find the Ollama template by: the model has no chat template",
            hint="give one: data.chat_template",
            code="E551",
            stage="ollama",
        )
    best: tuple[int, Family, str | None] | None = None
    for family in families:
        system = default_system(family, prompts)
        right = _rendered_right(family, system, prompts)
        if right == len(prompts):
            return _choice(family, system)
        if best is None or right > best[0]:
            best = (right, family, system)
    assert best is not None, "there is at least one family"
    raise _no_family(prompts[best[0]], best[1], best[2])


def default_system(family: Family, prompts: Sequence[Prompt]) -> str | None:
    """The system prompt that stands where a conversation brings none; None: there is no such turn.

    Read off the first reference prompt whose conversation begins without a system turn.
    """
    for prompt in prompts:
        if prompt.messages and prompt.messages[0]["role"] == "system":
            continue
        bare = family.render(prompt.messages, None)
        if not prompt.text.endswith(bare):
            return None
        return _content_of_turn(family, prompt.text.removesuffix(bare))
    return None


def join_turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and content of each turn as Ollama hands them to a template.

    Turns of one role in a row become one, with a blank line between (template.collate in Ollama).
    """
    turns: list[tuple[str, str]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if turns and turns[-1][0] == role:
            content = f"{turns.pop()[1]}\n\n{content}"
        turns.append((role, content))
    return turns


def first_difference(expected: str, actual: str) -> str:
    """Where two texts part, with a little of both around it."""
    at = next(
        (index for index, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
        min(len(expected), len(actual)),
    )
    start = max(0, at - 30)
    return (
        f"from character {at} on\n"
        f"  expected: …{expected[start : at + 60]!r}\n"
        f"  rendered: …{actual[start : at + 60]!r}"
    )


def _content_of_turn(family: Family, prefix: str) -> str | None:
    """The content of the one system turn that `prefix` is, or None when it is something else."""
    head, tail = family.turn("system", "\0").split("\0")
    if len(prefix) < len(head) + len(tail):
        return None
    if not (prefix.startswith(head) and prefix.endswith(tail)):
        return None
    return prefix[len(head) : len(prefix) - len(tail)]


def _rendered_right(family: Family, system: str | None, prompts: Sequence[Prompt]) -> int:
    """How many prompts come out right before the first that does not."""
    for index, prompt in enumerate(prompts):
        if family.render(prompt.messages, system) != prompt.text:
            return index
    return len(prompts)


def _choice(family: Family, system: str | None) -> Choice:
    if system == "":
        return Choice(family.name, family.go_empty_system + family.go_template, None, family.stop)
    return Choice(family.name, family.go_template, system, family.stop)


def _no_family(prompt: Prompt, family: Family, system: str | None) -> StageFailed:
    joined = len(join_turns(prompt.messages)) < len(prompt.messages)
    why = "; Ollama joins turns of one role that follow each other" if joined else ""
    return StageFailed(
        f"no known Ollama template renders the conversation {prompt.id!r} as the model's own does"
        f"{why}. The closest, {family.name}, differs "
        f"{first_difference(prompt.text, family.render(prompt.messages, system))}",
        hint="join such turns in the data"
        if joined
        else "choose a model or a data.chat_template of a known family (docs/errors.md, E551)",
        code="E551",
        stage="ollama",
    )
