"""How Ollama is to render a model's prompts, found by behaviour.

Ollama renders a conversation by a Go template of its own, not by the model's Jinja. The known kinds
(stages/templates/families) are tried on the reference prompts; one fits when its twin gives every
prompt exactly. Where none fits, the model's own Jinja goes into the GGUF file, marked so that
Ollama leaves it to llama.cpp. What is believed here is checked by the parity gate of the stage
`ollama`. See docs/decisions/0002-ollama-template-and-parity.md and docs/templates.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.errors import StageFailed
from runner.stages.deployment.prompts import Prompt
from runner.stages.templates.families import FAMILIES
from runner.stages.templates.families.layout import Family, Layout, join_turns

_MARKED_SYSTEM = "\0system\0"


@dataclass(frozen=True, slots=True)
class Bos:
    """The token that begins a text: its id (-1: none), its text, and does the file add it?"""

    id: int = -1
    text: str = ""
    added: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What is sent to Ollama: template, default system prompt (None: none), stop strings.

    `kind` `jinja` sends no template: the GGUF file carries the marked one. `begin` is the BOS text
    that the prompts begin with, whoever writes it. `closest` says, for messages, what kept the
    nearest family from fitting.
    """

    family: str
    template: str | None
    system: str | None
    stop: tuple[str, ...]
    kind: Literal["go", "jinja"] = "go"
    begin: str = ""
    closest: str = ""


def choose(
    prompts: Sequence[Prompt],
    bos: Bos = Bos(),
    system: str | None = None,
    families: Sequence[Family] = FAMILIES,
) -> Choice:
    """The first family that renders every prompt exactly, else the model's own Jinja.

    `bos` is the GGUF file's; `system` the recipe's. Raises StageFailed (E551) when there is no
    prompt to go by.
    """
    if not prompts:
        raise StageFailed(
            "there is no prompt to find the Ollama template by: the model has no chat template",
            hint="give one: data.chat_template",
            code="E551",
            stage="ollama",
        )
    closest: tuple[int, str, str] = (-1, "", "")
    for begin in _beginnings(prompts, bos):
        for family in families:
            for layout in family.layouts:
                found = default_system(layout, prompts, begin)
                right = _rendered_right(layout, found, prompts, begin)
                if right == len(prompts):
                    return _choice(family, layout, found, begin, bos)
                if right > closest[0]:
                    wrong = begin + layout.render(prompts[right].messages, found)
                    closest = (right, family.name, _why(prompts[right], family.name, wrong))
    return Choice("", None, system, (), "jinja", _beginnings(prompts, bos)[0], closest[2])


def default_system(layout: Layout, prompts: Sequence[Prompt], begin: str = "") -> str | None:
    """The system prompt that stands where a conversation brings none; None: there is no such turn.

    Read off the first reference prompt whose conversation begins without a system turn.
    """
    for prompt in prompts:
        if prompt.messages and prompt.messages[0]["role"] == "system":
            continue
        text = prompt.text.removeprefix(begin)
        if text == layout.render(prompt.messages, None):
            return None
        head, *tails = layout.render(prompt.messages, _MARKED_SYSTEM).split(_MARKED_SYSTEM)
        if len(tails) != 1 or len(text) < len(head) + len(tails[0]):
            return None
        if not (text.startswith(head) and text.endswith(tails[0])):
            return None
        return text[len(head) : len(text) - len(tails[0])]
    return None


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


# Ollama compares a Jinja text with those it knows, and takes its own Go template for one that is
# fewer than 100 edits away. This comment is longer than that, and no template is like it.
MARK = (
    "{#- Rendered as it stands. The words of this comment keep Ollama from taking the template for "
    "one of those that it knows by heart, in whose place it would put a Go template of its own, "
    "which writes other tokens than the model was trained on. -#}"
)


def marked(jinja: str) -> str:
    """The template with a comment that keeps Ollama from recognising it; renders the same."""
    return MARK + jinja


def _beginnings(prompts: Sequence[Prompt], bos: Bos) -> list[str]:
    """What every prompt may begin with before its layout does: nothing, or the BOS text."""
    with_bos = bool(bos.text) and all(prompt.text.startswith(bos.text) for prompt in prompts)
    return [bos.text, ""] if with_bos else [""]


def _rendered_right(
    layout: Layout, system: str | None, prompts: Sequence[Prompt], begin: str
) -> int:
    """How many prompts come out right before the first that does not."""
    for index, prompt in enumerate(prompts):
        if begin + layout.render(prompt.messages, system) != prompt.text:
            return index
    return len(prompts)


def _choice(family: Family, layout: Layout, system: str | None, begin: str, bos: Bos) -> Choice:
    # llama.cpp writes the BOS itself where the file says so; a second one would be read as text.
    written = "" if begin and bos.added else begin
    template = layout.go_template(written, empty_system=system == "")
    return Choice(family.name, template, system or None, family.stop, begin=begin)


def _why(prompt: Prompt, family: str, rendered: str) -> str:
    joined = len(join_turns(prompt.messages)) < len(prompt.messages)
    why = "; Ollama joins turns of one role that follow each other" if joined else ""
    return (
        f"no known Ollama template renders the conversation {prompt.id!r} as the model's own does"
        f"{why}. The closest, {family}, differs {first_difference(prompt.text, rendered)}"
    )
