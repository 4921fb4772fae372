"""How a kind of chat template lays out a conversation, as a Go template and as its Python twin.

A layout is data: what stands around each turn, and where the system prompt goes. `go_template`
writes it for Ollama; `render` is what Ollama makes of that, in Python. That the real server renders
like the twin is not believed but checked, by the parity gate and a test for each family.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.stages.deployment.prompts import Message

Place = Literal["front", "first", "last", "none"]

# What Python's str.strip, and so Jinja's trim, takes for white space.
_SPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
THINK_END = "</think>"


@dataclass(frozen=True, slots=True)
class Turn:
    """The text around the content of a turn; `trim`: its white space at both ends goes."""

    head: str
    tail: str
    trim: bool = False

    def around(self, content: str) -> str:
        """The whole turn."""
        return self.head + (content.strip() if self.trim else content) + self.tail


@dataclass(frozen=True, slots=True)
class System:
    """Where the system prompt goes, and the text around it.

    `front`: a turn of its own before all others. `first`, `last`: before the content of the first
    or last user turn, inside of its head and tail. `none`: nowhere, such a turn is refused.
    `late`: how a later system turn is written; None: it is not.
    `skip_empty`: an empty one is not written. `trims_user`: where it is merged, system prompt and
    content are trimmed as one text.
    """

    place: Place
    text: Turn
    late: Turn | None = None
    skip_empty: bool = False
    trims_user: bool = False


NO_SYSTEM = System("none", Turn("", ""))


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to write a conversation. `ask` asks for the answer.

    `drops_thinking`: of a former answer only what follows its last `</think>` is written, without
    line breaks before it (`keeps_breaks`: with them).
    """

    user: Turn
    assistant: Turn
    ask: str
    system: System
    drops_thinking: bool = False
    keeps_breaks: bool = False

    def render(self, messages: Sequence[Message], system: str | None) -> str:
        """What Ollama renders when the model's default system prompt is `system`."""
        filled = list(messages)
        if system is not None and (not filled or filled[0]["role"] != "system"):
            filled.insert(0, {"role": "system", "content": system})
        turns = join_turns(filled)
        return "".join(self._turn(turns, index) for index in range(len(turns))) + self.ask

    def go_template(self, begin: str = "", *, empty_system: bool = False) -> str:
        """The Go template that renders so.

        `begin` stands before everything. With `empty_system` a missing system turn is rendered as
        an empty one, which Ollama cannot store as a system prompt.
        """
        return _GoWriter(self, empty_system).text(begin)

    def _turn(self, turns: Sequence[tuple[str, str]], index: int) -> str:
        role, content = turns[index]
        if role == "system":
            return self._system(content, index)
        if role == "assistant":
            return self.assistant.around(self._answer(content))
        if not self._merges(turns, index):
            return self.user.around(content)
        return self._merged(turns[0][1], content)

    def _system(self, content: str, index: int) -> str:
        if index == 0 and self.system.place == "front":
            skipped = self.system.skip_empty and not content
            return "" if skipped else self.system.text.around(content)
        if index > 0 and self.system.late is not None:
            return self.system.late.around(content)
        return ""

    def _merges(self, turns: Sequence[tuple[str, str]], index: int) -> bool:
        at = {"first": 1, "last": len(turns) - 1}.get(self.system.place)
        if index != at or turns[0][0] != "system":
            return False
        return bool(turns[0][1]) or not self.system.skip_empty

    def _merged(self, system: str, content: str) -> str:
        before = self.system.text.around(system)
        if self.system.trims_user:
            return self.user.head + (before + content).strip() + self.user.tail
        return (
            self.user.head + before + Turn("", "", self.user.trim).around(content) + self.user.tail
        )

    def _answer(self, content: str) -> str:
        if not self.drops_thinking or THINK_END not in content:
            return content
        answer = content.rpartition(THINK_END)[2]
        return answer if self.keeps_breaks else answer.lstrip("\n")


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of chat template: its layouts, in the order in which they are tried.

    `stop` are the texts that end an answer, for servers that do not know the model's own.
    """

    name: str
    layouts: tuple[Layout, ...]
    stop: tuple[str, ...]


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


# --- the Go template


_BEGINS_WITH_SYSTEM = '(eq (index $.Messages 0).Role "system")'
_LAST_INDEX = "(len (slice $.Messages 1))"  # Go templates cannot subtract


class _GoWriter:
    """Writes one layout. Not a word of it is shared with the twin but the layout itself."""

    def __init__(self, layout: Layout, empty_system: bool) -> None:
        self._layout = layout
        self._empty_system = empty_system and not layout.system.skip_empty

    def text(self, begin: str) -> str:
        layout = self._layout
        prelude = ""
        if self._empty_system and layout.system.place == "front":
            empty = layout.system.text.around("")
            prelude = f'{{{{- if ne (index .Messages 0).Role "system" }}}}{empty}{{{{ end }}}}'
        return self._defines() + begin + prelude + self._turns() + layout.ask

    def _turns(self) -> str:
        if (uniform := self._uniform()) is not None:
            return f"{{{{- range .Messages }}}}{uniform}{{{{ end }}}}"
        return (
            "{{- range $i, $_ := .Messages }}"
            f'{{{{ if eq .Role "system" }}}}{self._system()}'
            f'{{{{ else if eq .Role "user" }}}}{self._user()}'
            f"{{{{ else }}}}{self._assistant()}{{{{ end }}}}"
            "{{ end }}"
        )

    def _uniform(self) -> str | None:
        """One text for the turns of every role, where they differ only in the role's name."""
        layout = self._layout
        system = layout.system
        if system.place != "front" or system.late != system.text or system.skip_empty:
            return None
        if layout.drops_thinking:
            return None
        texts = {
            _emit(Turn(turn.head.replace(role, "{{ .Role }}"), turn.tail, turn.trim), ".Content")
            for role, turn in (
                ("system", system.text),
                ("user", layout.user),
                ("assistant", layout.assistant),
            )
        }
        return texts.pop() if len(texts) == 1 else None

    def _system(self) -> str:
        system = self._layout.system
        first, later = "", ""
        if system.place == "front":
            first = _emit(system.text, ".Content")
            if system.skip_empty:
                first = f"{{{{ if .Content }}}}{first}{{{{ end }}}}"
        if system.late is not None:
            later = _emit(system.late, ".Content")
        if first == later:
            return first
        return f"{{{{ if eq $i 0 }}}}{first}{{{{ else }}}}{later}{{{{ end }}}}"

    def _user(self) -> str:
        system = self._layout.system
        plain = _emit(self._layout.user, ".Content")
        if system.place not in ("first", "last"):
            return plain
        given = _BEGINS_WITH_SYSTEM
        if system.skip_empty:
            given += " (index $.Messages 0).Content"
        at = "1" if system.place == "first" else _LAST_INDEX
        merged = self._merged("(index $.Messages 0).Content")
        text = f"{{{{ if and (eq $i {at}) {given} }}}}{merged}"
        if self._empty_system:
            # With a system turn the first user turn is the second, without it the first.
            at = "0" if system.place == "first" else _LAST_INDEX
            missing = f"(not {_BEGINS_WITH_SYSTEM})"
            text += f"{{{{ else if and (eq $i {at}) {missing} }}}}{self._merged(_quoted(''))}"
        return f"{text}{{{{ else }}}}{plain}{{{{ end }}}}"

    def _merged(self, system: str) -> str:
        layout = self._layout
        around = layout.system.text
        if layout.system.trims_user:
            parts = f"{_quoted(around.head)} {system} {_quoted(around.tail)} .Content"
            whole = f'(printf "%s%s%s%s" {parts})'
            return layout.user.head + _value(whole, trim=True) + layout.user.tail
        content = _value(".Content", trim=layout.user.trim)
        return layout.user.head + _emit(around, system) + content + layout.user.tail

    def _assistant(self) -> str:
        turn = self._layout.assistant
        if not self._layout.drops_thinking:
            return _emit(turn, ".Content")
        return turn.head + '{{ template "answer" .Content }}' + turn.tail

    def _defines(self) -> str:
        layout = self._layout
        turns = (layout.user, layout.assistant, layout.system.text, layout.system.late)
        trims = layout.system.trims_user or any(turn is not None and turn.trim for turn in turns)
        text = _TRIM if trims else ""
        if layout.drops_thinking:
            text += _ANSWER_WITH_BREAKS if layout.keeps_breaks else _ANSWER
        return text


def _emit(turn: Turn, value: str) -> str:
    return turn.head + _value(value, trim=turn.trim) + turn.tail


def _value(value: str, *, trim: bool) -> str:
    return f'{{{{ template "trim" {value} }}}}' if trim else f"{{{{ {value} }}}}"


def _quoted(text: str) -> str:
    """A Go string literal; the escapes of JSON are Go's too below U+10000."""
    return json.dumps(text)


def _strip_step(size: int, *, left: bool) -> str:
    """Drop one white space character of `size` bytes from `$s`, if one stands there."""
    listed = " ".join(_quoted(sign) for sign in _SPACE if len(sign.encode()) == size)
    tail = f"(slice $s {size})"
    if left:
        piece, rest = f"(slice $s 0 {size})", f"slice $s {size}"
    else:
        piece, rest = f"(slice $s (len {tail}))", f"slice $s 0 (len {tail})"
    return f"if and (ge (len $s) {size}) (eq {piece} {listed}) }}}}{{{{ $s = {rest} }}}}"


def _strip_loop(*, left: bool) -> str:
    """Drop white space from one end of `$s`; Go templates can count, but not loop until."""
    steps = "{{ else ".join(_strip_step(size, left=left) for size in (1, 2, 3))
    return f"{{{{ range len . }}}}{{{{ {steps}" + "{{ else }}{{ break }}{{ end }}{{ end }}"


_TRIM = (
    '{{- define "trim" }}{{ $s := . }}'
    + _strip_loop(left=True)
    + _strip_loop(left=False)
    + "{{ $s }}{{ end }}"
)
_AFTER_THINKING = (
    '{{- define "answer" }}{{ $all := . }}{{ $s := . }}{{ range $i := len . }}'
    "{{ $at := slice $all $i }}"
    f"{{{{ if and (ge (len $at) {len(THINK_END)}) "
    f"(eq (slice $at 0 {len(THINK_END)}) {_quoted(THINK_END)}) }}}}"
    f"{{{{ $s = slice $at {len(THINK_END)} }}}}{{{{ end }}}}{{{{ end }}}}"
)
_ANSWER_WITH_BREAKS = _AFTER_THINKING + "{{ $s }}{{ end }}"
_ANSWER = (
    _AFTER_THINKING
    # An answer without thinking keeps its line breaks.
    + "{{ if lt (len $s) (len $all) }}{{ range len $s }}"
    '{{ if eq (slice $s 0 1) "\\n" }}{{ $s = slice $s 1 }}{{ else }}{{ break }}{{ end }}'
    "{{ end }}{{ end }}{{ $s }}{{ end }}"
)
