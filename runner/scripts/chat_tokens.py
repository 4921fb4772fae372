"""Token ids and label masks of conversations, by the model's own chat template.

The reference of every id is `apply_chat_template`. Which tokens are answers is found by rendering
prefixes, never by searching for role words: the prompt of an answer, rendered with
`add_generation_prompt`, must be a token prefix of the whole, and so must the text up to the
answer's end. Trained on is what lies between, up to and including the end-of-turn token; what a
template writes after it (ChatML's newline) is not: a model that has ended its turn never writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from runner.scripts.conversation import Conversation, Message
from runner.scripts.rows import RowError
from runner.scripts.spec import ScriptError


@dataclass(frozen=True, slots=True)
class Tokens:
    """One document. `spans` are [begin, end) ranges of tokens that are trained on."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def mask(self) -> bytearray:
        """One byte a token: 1 = trained on. Never the first token: nothing predicts it."""
        mask = bytearray(len(self.ids))
        for begin, end in self.spans:
            mask[begin:end] = b"\x01" * (end - begin)
        if mask:
            mask[0] = 0
        return mask


class ChatTokenizer:
    """A tokenizer with its chat template and the ids that end a turn."""

    def __init__(self, model: Path, template: str | None, end_ids: Sequence[int]) -> None:
        """`template` replaces the model's own. Raises ScriptError E326 when there is none."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
        if template is not None:
            self._tokenizer.chat_template = template
        self.has_template = bool(self._tokenizer.chat_template)
        self._eos = end_ids[0] if end_ids else self._tokenizer.eos_token_id
        self._ends = {*end_ids, *self._tokenizer.all_special_ids}

    @property
    def template(self) -> str:
        """The Jinja text in use."""
        return str(self._tokenizer.chat_template or "")

    def render(self, messages: Sequence[Message], *, generate: bool = False) -> str:
        """The text of `messages`; `generate` adds what comes before an answer. Raises RowError."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=generate
                )
            )
        except TemplateError as error:
            raise RowError(f"the chat template refuses it: {error}", "E326") from None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """What a deployed model must see before it answers: the reference of parity."""
        return list(
            self._tokenizer.apply_chat_template(
                list(messages), tokenize=True, add_generation_prompt=True, return_dict=False
            )
        )

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text: special tokens are recognised, none is added."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokens(self, conversation: Conversation) -> Tokens:
        """Ids and trained spans of one row. Raises RowError."""
        if conversation.text is not None:
            return self._plain(conversation.text)
        ids = self.encode(self.render(conversation.messages))
        return Tokens(ids, [self._answer(conversation, ids, turn) for turn in conversation.answers])

    def _plain(self, text: str) -> Tokens:
        """As the tokenizer begins a text of its own, closed with the end-of-text token."""
        ids = list(self._tokenizer(text)["input_ids"])
        if ids[-1:] != [self._eos]:
            ids.append(self._eos)
        return Tokens(ids, [(0, len(ids))])

    def _answer(self, conversation: Conversation, ids: list[int], turn: int) -> tuple[int, int]:
        before = self.render(conversation.messages[:turn], generate=True)
        after = self.render(conversation.messages[: turn + 1])
        prompt = self.encode(before)
        whole = ids if turn == len(conversation.messages) - 1 else self.encode(after)
        if ids[: len(prompt)] != prompt or ids[: len(whole)] != whole:
            raise RowError(self._why_no_prefix(conversation, turn), "E327")
        if conversation.messages[turn]["content"].strip() not in after[len(before) :]:
            raise RowError(
                f"the chat template does not write the answer of turn {turn + 1} where it "
                "generates answers",
                "E327",
            )
        return (len(prompt), self._end_of_turn(ids, len(prompt), len(whole)))

    def _end_of_turn(self, ids: list[int], begin: int, end: int) -> int:
        for position in range(end - 1, begin - 1, -1):
            if ids[position] in self._ends:
                return position + 1
        raise RowError("the chat template does not end an answer with a special token", "E328")

    def _why_no_prefix(self, conversation: Conversation, turn: int) -> str:
        content = conversation.messages[turn]["content"]
        if content != content.lstrip():
            return (
                f"the white space before the answer of turn {turn + 1} melts into a token of the "
                "chat template, so that no model could begin with it"
            )
        return (
            f"the chat template writes the turns up to {turn + 1} differently when more turns "
            "follow, so what the model would see cannot be trained on as it is"
        )


def end_ids_of(model: Path) -> list[int]:
    """Ids that end a generation, from generation_config.json, else config.json."""
    import json

    for name in ("generation_config.json", "config.json"):
        path = model / name
        if not path.exists():
            continue
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        if value is not None:
            return list(value) if isinstance(value, list) else [value]
    return []


def check_template(tokenizer: ChatTokenizer, name: str) -> None:
    """Raises ScriptError E326 when there is no template, or it does not render a question."""
    if not tokenizer.has_template:
        raise ScriptError(
            "the model has no chat template",
            hint="name one in data.chat_template: the path of a .jinja file",
            code="E326",
        )
    try:
        tokenizer.render([{"role": "user", "content": "Hello."}], generate=True)
    except RowError as error:
        raise ScriptError(
            f"the chat template {name} does not work: {error.message}",
            hint="render a question with it, by transformers' apply_chat_template",
            code="E326",
        ) from error
