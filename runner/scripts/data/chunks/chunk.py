"""A chunk of rows as token ids, label masks and what is counted of them.

`tokenised` is a pure function of its arguments, and both they and what it gives can be pickled: a
worker process or a machine elsewhere may call it. `Gathered` puts chunks together again in their
order; the result does not depend on where the rows were cut.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.data.conversation import Conversation, asks_nothing, with_system
from runner.scripts.data.dividing.kinship import Row
from runner.scripts.data.files.rows import MAX_SHOWN, Place, Problem, RowError, by_place
from runner.scripts.data.preference import Compared
from runner.scripts.data.prompted import Prompted
from runner.scripts.data.special_text import SHOWN
from runner.scripts.data.systems import prompt_of, system_of
from runner.scripts.data.tokens import last_rendered
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer, Tokens, end_ids_of
from runner.scripts.data.tokens.fitting import fit
from runner.scripts.data.tokens.template_limits import Runaway
from runner.scripts.weights.floats import Array

SAME = "the same within max_length"
# What is odd of rows that are kept; also its names in run.json.
SPECIAL_TEXT, EMPTY_QUESTIONS = "special_text", "empty_questions"


@dataclass(frozen=True)
class Making:
    """How rows become tokens: the folder of the model, the text of a chat template that takes the
    place of its own, and the settings template (its name), seed, system, system_variants,
    max_length, too_long and max_completion_length.
    """

    model: Path
    template: str | None
    settings: Mapping[str, Any]
    keeps_rows: bool = False  # are the rows wanted too, as they were made into documents?

    def of_held_out(self) -> Making:
        """As rows are measured with what is deployed, and are wanted themselves."""
        return replace(self, settings={**self.settings, "system_variants": ()}, keeps_rows=True)


@dataclass
class Notes:
    """Rows that are odd in one way: how many, and the first by place, with what is told of each."""

    count: int = 0
    first: list[tuple[Place, dict[str, str]]] = field(default_factory=list)

    def add(self, others: Notes) -> None:
        """Count others too."""
        self.count += others.count
        first = sorted([*self.first, *others.first], key=lambda each: astuple(each[0]))
        self.first = first[:SHOWN]

    def measures(self) -> dict[str, Any]:
        """For run.json."""
        first = [{"place": str(place), **told} for place, told in self.first]
        return {"count": self.count, "first": first}


@dataclass
class Counts:
    """What happened to rows. Problems are counted, and the first ones by place kept."""

    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason, or "truncated" -> first place
    texts: dict[str, str] = field(default_factory=dict)  # of the examples, as they are
    problems: list[Problem] = field(default_factory=list)
    unusable: int = 0
    notes: dict[str, Notes] = field(default_factory=dict)  # of rows that are kept, by what is odd

    def drop(self, reason: str, row: Row) -> None:
        """Count a row that is left out."""
        self.dropped[reason] += 1
        self._show(reason, row)

    def cut(self, row: Row) -> None:
        """Count a row that is shortened."""
        self.truncated += 1
        self._show("truncated", row)

    def _show(self, reason: str, row: Row) -> None:
        if reason not in self.examples:
            self.examples[reason] = str(row.place)
            self.texts[reason] = _first_text(row)

    def refuse(self, problem: Problem) -> None:
        """Count a row that cannot be used."""
        self.unusable += 1
        insort(self.problems, problem, key=by_place)
        del self.problems[MAX_SHOWN:]

    def note(self, what: str, row: Row, **told: str) -> None:
        """Count a row that is kept, though it is odd."""
        self.notes.setdefault(what, Notes()).add(Notes(1, [(row.place, told)]))

    def add(self, later: Counts) -> None:
        """Count what happened to the rows that follow."""
        self.truncated += later.truncated
        self.dropped += later.dropped
        self.examples = later.examples | self.examples
        self.texts = later.texts | self.texts
        self.unusable += later.unusable
        self.problems = sorted([*self.problems, *later.problems], key=by_place)[:MAX_SHOWN]
        for name, notes in later.notes.items():
            self.notes.setdefault(name, Notes()).add(notes)


def _first_text(row: Row) -> str:
    if isinstance(row, Conversation) and row.text is not None:
        return row.text
    said = (turn["content"] for turn in row.messages if turn["role"] != "system")
    return next(said, "")


@dataclass
class Chunk:
    """The rows of a chunk that can be used, in their order. n tokens, d documents, r rows.

    A row of preferences has a document for each of its sides; every other row is one.
    """

    ids: Array  # int32 [n]
    mask: Array  # int8 [n]
    lengths: Array  # int32 [d]
    trained: Array  # int32 [d]: tokens that are trained on
    preferred: Array  # int8 [d]: of preferences, is it the better or a good answer?
    row_lengths: Array  # int32 [r]
    sources: Array  # int32 [r]
    digests: Array  # S64 [r]: hexadecimal, of the content
    prompts: Array  # S64 [r]: of what is answered; of rows that are not compared, as `digests`
    rows: list[Row]  # where they are wanted
    counts: Counts


def tokenised(rows: Sequence[Row], making: Making) -> Chunk:
    """The rows with a place in the training or the validation. Problems are counted, not raised.

    Raises Runaway at the first row that the chat template takes too much time or memory for.
    """
    tokenizer = tokenizer_for(making.model, making.template)
    counts = Counts()
    kept: list[tuple[Row, list[Tokens]]] = []
    for row in rows:
        last_rendered.at(row.place)
        try:
            made = _maker(row)(row, tokenizer, making.settings, counts)
        except RowError as error:
            counts.refuse(Problem(row.place, error))
        except Runaway as error:  # no other row would fare better
            raise error.of(making.settings.get("template"), row.place) from None
        else:
            kept += made
            if made and (token := tokenizer.special_text.first_in(row)):
                counts.note(SPECIAL_TEXT, row, token=token)
            if made and asks_nothing(row):
                counts.note(EMPTY_QUESTIONS, row)
    return _chunk(kept, counts, making.keeps_rows)


@lru_cache(maxsize=2)
def tokenizer_for(model: Path, template: str | None) -> ChatTokenizer:
    """Read once in a process. Raises ScriptError E326."""
    return ChatTokenizer(model, template, end_ids_of(model))


def _maker(row: Row) -> Callable[..., list[tuple[Row, list[Tokens]]]]:
    if isinstance(row, Conversation):
        return _conversation
    return _prompted if isinstance(row, Prompted) else _compared


# --- rows to train on as they are


def _conversation(
    row: Conversation, tokenizer: ChatTokenizer, settings: Mapping[str, Any], counts: Counts
) -> list[tuple[Row, list[Tokens]]]:
    """The row, or a conversation for each of its answers. Raises RowError."""
    parts = tokenizer.documents(with_system(row, system_of(row.digest, settings)))
    fitted = [fit(tokens, settings["max_length"], settings["too_long"]) for _, tokens in parts]
    kept: list[tuple[Row, list[Tokens]]] = []
    for (part, tokens), left in zip(parts, fitted, strict=True):
        if isinstance(left, str):
            counts.drop(left, row)
            continue
        if len(left.ids) < len(tokens.ids):
            counts.cut(row)
        check_mask(row, left)
        kept.append((row if len(parts) == 1 else part, [left]))
    return kept


def check_mask(row: Row, tokens: Tokens) -> None:
    """What must hold of every row that is trained on, whatever made it."""
    mask = tokens.mask()
    answers = bytearray(len(mask))
    for begin, end in tokens.spans:
        assert begin < end, f"{row.place}: an empty answer"
        answers[begin:end] = b"\x01" * (end - begin)
    answers[:1] = b"\0"
    assert any(mask), f"{row.place}: nothing to train on"
    assert mask == answers, f"{row.place}: a prompt token is trained on"


# --- rows of preferences


def _compared(
    row: Compared, tokenizer: ChatTokenizer, settings: Mapping[str, Any], counts: Counts
) -> list[tuple[Row, list[Tokens]]]:
    """The row with the tokens of each side, if it can be used. Raises RowError."""
    system = system_of(partial(prompt_of, row), settings)
    whole = [answer_tokens(side, tokenizer, system) for side, _ in row.sides]
    sides = [fit(each, settings["max_length"], settings["too_long"]) for each in whole]
    check_same_prompt(whole)
    reason = why_dropped(sides)
    if reason:
        counts.drop(reason, row)
        return []
    kept = [each for each in sides if isinstance(each, Tokens)]
    if any(len(short.ids) < len(long.ids) for short, long in zip(kept, whole, strict=True)):
        counts.cut(row)
    return [(row, kept)]


def answer_tokens(side: Conversation, tokenizer: ChatTokenizer, system: str | None) -> Tokens:
    """Ids up to the end of the last answer. Raises RowError."""
    tokens = tokenizer.tokens(with_system(side, system))
    assert tokens.spans
    assert all(begin < end for begin, end in tokens.spans), side.place
    return Tokens(tokens.ids[: tokens.spans[-1][1]], tokens.spans)


def check_same_prompt(sides: Sequence[Tokens]) -> None:
    """Raise RowError E327 when the template writes the prompt by what the answer is."""
    prompts = {tuple(tokens.ids[: tokens.spans[0][0]]) for tokens in sides}
    if len(prompts) > 1:
        raise RowError("the chat template writes another prompt for each of the answers", "E327")


def why_dropped(sides: Sequence[Tokens | str]) -> str:
    """Why the row cannot be used; "" when it can."""
    for each in sides:
        if isinstance(each, str):
            return each
    ids = [tuple(each.ids) for each in sides if isinstance(each, Tokens)]
    return SAME if len(set(ids)) < len(ids) else ""


# --- rows that wait for an answer


def _prompted(
    row: Prompted, tokenizer: ChatTokenizer, settings: Mapping[str, Any], counts: Counts
) -> list[tuple[Row, list[Tokens]]]:
    """The prompt up to where an answer begins, if there is room for one. Raises RowError."""
    system = system_of(partial(prompt_of, row), settings)
    ids = tokenizer.prompt_tokens(with_system(row.asked, system))
    longest = settings["max_completion_length"]
    room = settings["max_length"] - longest
    if len(ids) <= room:
        return [(row, [Tokens(ids, [])])]
    if settings["too_long"] == "error":
        wrong = f"the prompt has {len(ids)} tokens, and beside an answer of {longest} "
        raise RowError(f"{wrong}data.max_length leaves {room}", "E325")
    counts.drop("too long", row)
    return []


# --- arrays


def _chunk(kept: Sequence[tuple[Row, list[Tokens]]], counts: Counts, keeps_rows: bool) -> Chunk:
    documents = [tokens for _, sides in kept for tokens in sides]
    masks = [np.frombuffer(tokens.mask(), np.int8) for tokens in documents]
    rows = [row for row, _ in kept]
    digests = [row.digest() for row in rows]
    prompts = [
        digest if isinstance(row, Conversation) else prompt_of(row)
        for row, digest in zip(rows, digests, strict=True)
    ]
    return Chunk(
        ids=_joined([np.array(tokens.ids, np.int32) for tokens in documents], np.int32),
        mask=_joined(masks, np.int8),
        lengths=np.array([len(tokens.ids) for tokens in documents], np.int32),
        trained=np.array([int(mask.sum()) for mask in masks], np.int32),
        preferred=np.array(list(_preferred(rows)), np.int8),
        row_lengths=np.array([sum(len(side.ids) for side in sides) for _, sides in kept], np.int32),
        sources=np.array([row.traits.source for row in rows], np.int32),
        digests=np.array(digests, "S64"),
        prompts=np.array(prompts, "S64"),
        rows=rows if keeps_rows else [],
        counts=counts,
    )


def _preferred(rows: Sequence[Row]) -> Iterator[bool]:
    for row in rows:
        if not isinstance(row, Conversation | Prompted):
            yield from (good for _, good in row.sides)


def _joined(parts: list[Array], kind: Any) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, kind)
