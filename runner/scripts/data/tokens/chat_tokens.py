"""Token ids and label masks of conversations, by the model's own chat template.

The reference of every id is `apply_chat_template`. Which tokens are answers is found by rendering
prefixes, never by searching for role words: the prompt of an answer, rendered with
`add_generation_prompt`, must be a token prefix of the whole, and so must the text up to the
answer's end. Trained on is what lies between, up to and including the end-of-turn token; what a
template writes after it (ChatML's newline) is not: a model that has ended its turn never writes it.

Some templates write earlier turns differently when more follow: thinking is dropped, a system
prompt moves to the last user turn. Such a conversation becomes one document for each answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from runner.scripts.data.conversation import Conversation, Message
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.special_text import SpecialText, written_by
from runner.scripts.data.tokens import last_rendered
from runner.scripts.data.tokens.segments import Segments, special_tokens
from runner.scripts.data.tokens.template_clock import check_no_clock, pinned
from runner.scripts.data.tokens.template_limits import Runaway, check_length, limited
from runner.scripts.data.tokens.template_rendering import rendered_ids
from runner.scripts.data.tokens.template_sandbox import compiled
from runner.scripts.data.tokens.words import Words, begins_at_words
from runner.scripts.spec import ScriptError

_PROBE_SYSTEM = "Mind the Mark-7f3a."
BEGINS_WITH_ANSWER = (
    "the row begins with an answer, before which nothing is asked: put a question or a system turn "
    "first, write weight: 0 for that answer, or data.clean: {alternation: merge}, which removes it"
)
_NO_TOOLS = "the row has tools, but the chat template writes nothing of them"


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


class HistoryRewritten(RowError):
    """A template writes a conversation's earlier turns differently when more turns follow."""


class BrokenTemplate(RowError):
    """A chat template that is none, from its `line` on; `why` is Jinja's word for it."""

    def __init__(self, why: str, line: int) -> None:
        super().__init__(f"line {line} of the chat template: {why}", "E326")
        self.why, self.line = why, line

    def __reduce__(self) -> tuple[type[BrokenTemplate], tuple[str, int]]:
        return BrokenTemplate, (self.why, self.line)


class ChatTokenizer:
    """A tokenizer with its chat template and the ids that end a turn."""

    def __init__(self, model: Path, template: str | None, end_ids: Sequence[int]) -> None:
        """`template` replaces the model's own. Raises ScriptError E326 when there is none."""
        # By this name tokenizer.json is taken as it is, as everywhere here: AutoTokenizer puts a
        # normaliser into a Qwen2, which llama.cpp does not have, or runs a model's own code.
        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(
            str(model), local_files_only=True
        )
        if template is not None:
            self._tokenizer.chat_template = template
        if isinstance(self._tokenizer.chat_template, str):
            self._tokenizer.chat_template = pinned(self._tokenizer.chat_template)
        self.has_template = bool(self._tokenizer.chat_template)
        self._eos = end_ids[0] if end_ids else self._tokenizer.eos_token_id
        self._bos = self._tokenizer.bos_token_id
        self._ends = {*end_ids, *self._tokenizer.all_special_ids}

    @property
    def template(self) -> str:
        """The Jinja text in use."""
        return str(self._tokenizer.chat_template or "")

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        generate: bool = False,
    ) -> str:
        """The text of `messages`; `generate` adds what comes before an answer.

        As `apply_chat_template` renders it, in a sandbox with bounded operators. Raises RowError,
        and Runaway for a template that takes too much.
        """
        with limited():
            return self._render(messages, tools, generate=generate)

    def _render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, generate: bool
    ) -> str:
        """As `render`, where the template is limited already.

        The compiled template is asked as `apply_chat_template` asks it, but for what that does
        first: copying the turns value by value, so that only plain JSON is left. Ours are nothing
        else.
        """
        try:
            template = compiled(self._tokenizer.get_chat_template(tools=list(tools) or None))
            if not messages:
                raise RowError("the chat template is given no turn", "E326")
            text = template.render(
                messages=list(messages),
                tools=list(tools) or None,
                add_generation_prompt=generate,
                **self._always_given,
            )
        except TemplateSyntaxError as error:
            raise BrokenTemplate(str(error.message), error.lineno) from None
        except TemplateError as error:
            raise RowError(f"the chat template refuses it: {error}", "E326") from None
        return check_length(text)

    @cached_property
    def _always_given(self) -> dict[str, Any]:
        """What templates know in every conversation: `bos_token` and the like."""
        return {**self._tokenizer.special_tokens_map, "documents": None}

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """What a deployed model must see before it answers: the reference of parity.

        By transformers itself, of turns that `render` has rendered. Raises RowError, and Runaway.
        """
        return rendered_ids(self._tokenizer, None, messages, generate=True)

    @cached_property
    def system_problem(self) -> str:
        """Why the template takes no system turn; "" when it does."""
        probe = [
            {"role": "system", "content": _PROBE_SYSTEM},
            {"role": "user", "content": "Hello."},
        ]
        try:
            text = self.render(probe, generate=True)
        except RowError as error:
            return error.message
        return "" if _PROBE_SYSTEM in text else "the chat template writes nothing of it"

    @cached_property
    def special_text(self) -> SpecialText:
        """Finds rows whose turns hold a special token that the template writes."""
        added = self._tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special]
        return SpecialText(written_by(self.template, special, self._tokenizer.special_tokens_map))

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text: special tokens are recognised, none is added."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text as `encode` gives them, by one call, which costs less than many."""
        return self._segments.encode_all(texts) if self._segments else self.encode_whole(texts)

    @cached_property
    def _segments(self) -> Segments | None:
        """Where texts can be cut at special tokens."""
        told = self._tokenizer.backend_tokenizer.to_str()
        special = special_tokens(told)
        encode = Words(self.encode_whole).encode_all if begins_at_words(told) else self.encode_whole
        return Segments(special, encode) if special else None

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text by the tokenizer itself, and no more: `fast` leaves out where tokens lie."""
        encoded = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [each.ids for each in encoded]

    @cached_property
    def _encoder(self) -> Any:
        """The tokenizer within transformers' one, which neither cuts nor fills up any text."""
        encoder = self._tokenizer.backend_tokenizer
        encoder.no_truncation()
        encoder.no_padding()
        encoder.encode_special_tokens = self._tokenizer.split_special_tokens
        return encoder

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def documents(self, conversation: Conversation) -> list[tuple[Conversation, Tokens]]:
        """One row as what is trained on: itself, or one conversation for each answer.

        The second where the template rewrites the history. Raises RowError.
        """
        try:
            return [(conversation, self.tokens(conversation))]
        except HistoryRewritten:
            parts = one_for_each_answer(conversation)
            return [(part, self.tokens(part)) for part in parts]

    def prompt_tokens(self, conversation: Conversation) -> list[int]:
        """Ids of turns that wait for an answer, up to where it begins. Raises RowError."""
        self._check_system(conversation)
        text = self.render(conversation.messages, conversation.tools, generate=True)
        bare = self.render(conversation.messages, generate=True) if conversation.tools else ""
        if text == bare:
            raise RowError(_NO_TOOLS, "E350")
        ids = self.encode(text)
        self._check_one_bos(ids)
        return ids

    def tokens(self, conversation: Conversation) -> Tokens:
        """Ids and trained spans of one conversation. Raises RowError."""
        if conversation.text is not None:
            return self._plain(conversation.text)
        if 0 in conversation.answers:
            raise RowError(BEGINS_WITH_ANSWER, "E346")
        self._check_system(conversation)
        with limited():
            whole = self._whole(conversation)
            texts = self._around_answers(conversation, whole)
        return self._of_texts(conversation, whole, texts)

    def _whole(self, conversation: Conversation) -> str:
        """The text of a conversation. Raises RowError E350 where it does not hold all of it."""
        whole = self._render(conversation.messages, conversation.tools, generate=False)
        if conversation.tools and whole == self._render(conversation.messages, (), generate=False):
            raise RowError(_NO_TOOLS, "E350")
        for number, turn in enumerate(conversation.messages, 1):
            if turn["role"] == "tool" and turn["content"].strip() not in whole:
                wrong = f"the chat template does not write turn {number}, which is of a tool"
                raise RowError(wrong, "E350")
        return whole

    def _around_answers(self, conversation: Conversation, whole: str) -> list[tuple[str, str]]:
        """Of each answer the text before it, and the one up to its end. Raises RowError."""
        messages, tools = conversation.messages, conversation.tools
        return [
            (
                self._render(messages[:turn], tools, generate=True),
                whole
                if turn == len(messages) - 1
                else self._render(messages[: turn + 1], tools, generate=False),
            )
            for turn in conversation.answers
        ]

    def _of_texts(
        self, conversation: Conversation, whole: str, texts: Sequence[tuple[str, str]]
    ) -> Tokens:
        """The spans of the answers in `whole`, which is the conversation as a text."""
        distinct = list(dict.fromkeys([whole, *(text for both in texts for text in both)]))
        ids_of = dict(zip(distinct, self.encode_all(distinct), strict=True))
        ids = ids_of[whole]
        self._check_one_bos(ids)
        spans = []
        for turn, (before, after) in zip(conversation.answers, texts, strict=True):
            prompt, upto = ids_of[before], ids_of[after]
            if ids[: len(prompt)] != prompt or ids[: len(upto)] != upto:
                raise HistoryRewritten(self._why_no_prefix(conversation, turn), "E327")
            self._check_written(conversation, turn, after[len(before) :])
            spans.append((len(prompt), self._end_of_turn(ids, len(prompt), len(upto))))
        return Tokens(ids, spans)

    def _check_system(self, conversation: Conversation) -> None:
        if self.system_problem and any(turn["role"] == "system" for turn in conversation.messages):
            raise RowError(
                f"the row has a system turn, but the template takes none: {self.system_problem}",
                "E556",
            )

    def _check_one_bos(self, ids: Sequence[int]) -> None:
        if self._bos is not None and list(ids[:2]) == [self._bos, self._bos]:
            raise RowError(
                f"the chat template begins with {self._tokenizer.bos_token!r} twice", "E558"
            )

    def _plain(self, text: str) -> Tokens:
        """As the tokenizer begins a text of its own, closed with the end-of-text token."""
        ids = list(self._tokenizer(text)["input_ids"])
        if ids[-1:] != [self._eos]:
            ids.append(self._eos)
        return Tokens(ids, [(0, len(ids))])

    def _check_written(self, conversation: Conversation, turn: int, written: str) -> None:
        """Raise RowError where the text between prompt and end is not what the answer says."""
        if conversation.messages[turn]["content"].strip() not in written:
            raise RowError(
                f"the chat template does not write the answer of turn {turn + 1} where it "
                "generates answers",
                "E327",
            )
        for call in conversation.messages[turn].get("tool_calls", ()):
            if call["function"]["name"] not in written:
                raise RowError(
                    f"the chat template does not write the tool call of turn {turn + 1}", "E350"
                )

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
                "chat template, so that no model could begin with it: data.clean: {whitespace: "
                "true} removes it"
            )
        return (
            f"the chat template writes the turns before the answer of turn {turn + 1} differently "
            "when that answer follows, so what the model would see cannot be trained on as it is"
        )


def one_for_each_answer(conversation: Conversation) -> list[Conversation]:
    """The conversation up to each of its answers, with only that one to train on."""
    parts = []
    for turn in conversation.answers:
        messages = conversation.messages[: turn + 1]
        earlier = {n for n, message in enumerate(messages[:turn]) if message["role"] == "assistant"}
        parts.append(replace(conversation, messages=messages, untrained=frozenset(earlier)))
    return parts


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


def template_text(path: Path) -> str:
    """The Jinja text of the recipe's own template. Raises ScriptError E326 where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ScriptError(
            f"the chat template is not UTF-8: byte {error.start + 1} begins no character",
            hint="save the template as UTF-8",
            code="E326",
        ) from None


def check_template(tokenizer: ChatTokenizer, name: str) -> None:
    """Raises ScriptError: no template, one that renders no question (E326), or a clock (E557)."""
    if not tokenizer.has_template:
        raise ScriptError(
            "the model has no chat template",
            hint="name one in data.chat_template (docs/templates.md lists them), or give the path "
            "of a .jinja file",
            code="E326",
        )
    check_no_clock(tokenizer.template)
    try:
        tokenizer.render([{"role": "user", "content": "Hello."}], generate=True)
    except Runaway as error:
        raise error.of(name) from None
    except RowError as error:
        where = f"the chat template {name} does not work: "
        if isinstance(error, BrokenTemplate) and name.endswith(".jinja"):
            where += f"{name}:{error.line}: {error.why}"
        else:
            where += error.message
        raise ScriptError(
            where,
            hint=last_rendered.HINT,
            code="E326",
        ) from error


def check_system(tokenizer: ChatTokenizer, system: str | None, name: str) -> None:
    """Raises ScriptError E556 when the recipe's system prompt has no place in the template."""
    if system is not None and tokenizer.system_problem:
        raise ScriptError(
            f"data.system gives every conversation a system turn, but the chat template {name} "
            f"takes none: {tokenizer.system_problem}",
            hint="remove data.system, or choose a data.chat_template that takes one",
            code="E556",
        )
