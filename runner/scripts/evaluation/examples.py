"""The results of every single example, as `examples.jsonl`. Standard library only.

The first line is {"schema": 1, "max_new_tokens": ...}, with "groups" where groups of tasks were
asked for: [{"group": ..., "tasks": [...], "metrics": [[metric, filters or null, weighted]]}]. Every
other one is an example: `kind`, `id` (a sha256 of what was asked, whoever answers), what is shown
of it, and under "base" and "tuned" what came out. They are in order of kind and id, not of the file
they came from, so that two evaluations of equal rows can be laid side by side.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

FILE = "examples.jsonl"
SCHEMA = 1
SHOWN = 400  # characters of a text that is only looked at
KINDS = (
    "row",  # held-out tokens: `loss` is a sum, in nats, over `tokens`
    "pair-sum",  # two held-out answers: `margin` between log-probabilities
    "pair-mean",  # the same, of the means over an answer's tokens
    "pair-reward",  # the same, of a reward model's scores
    "good-answer",  # a held-out answer that was judged: `logp`
    "bad-answer",
    "question",  # of evaluate.questions
    "sample",  # a held-out prompt, with the answer that it should have had
    "general",  # one of our general prompts
    "neutral",  # one of our neutral texts: `loss`, `kl`
    "task",  # a row of a task of lm-evaluation-harness; `task` names it
    "reward",  # a held-out prompt, whose answer earns a `reward`
)
MODELS = ("base", "tuned")
T = TypeVar("T")


class NotExamples(ValueError):
    """A file that holds no examples; the message says why."""


@dataclass(frozen=True, slots=True)
class Example:
    """`shown`: what a person sees of it. `results`: model -> name of a measure -> value."""

    kind: str
    id: str
    shown: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Any]]
    tokens: int | None = None  # that its sums are over


@dataclass(frozen=True, slots=True)
class Group:
    """A group of tasks that has figures of its own: means over its tasks.

    `metrics`: name, the filters (None: all that there are), and whether a task counts by its rows
    or every task the same.
    """

    name: str
    tasks: tuple[str, ...]
    metrics: tuple[tuple[str, tuple[str, ...] | None, bool], ...]

    @classmethod
    def of(cls, given: Any) -> Group:
        """From plain data. Raises ValueError."""
        try:
            metrics = tuple(
                (str(metric), None if filters is None else tuple(map(str, filters)), bool(weighted))
                for metric, filters, weighted in given["metrics"]
            )
            return cls(str(given["group"]), tuple(map(str, given["tasks"])), metrics)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no group of tasks: {error}") from None

    def as_data(self) -> dict[str, Any]:
        """Plain data that `of` reads."""
        metrics = [
            [metric, None if filters is None else list(filters), weighted]
            for metric, filters, weighted in self.metrics
        ]
        return {"group": self.name, "tasks": list(self.tasks), "metrics": metrics}


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Examples by (kind, id, how many equal ones came before), and how they were made."""

    max_new_tokens: int
    examples: Mapping[tuple[str, str, int], Example] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()


def content_id(content: Any) -> str:
    """Sha256 of plain JSON data, or of bytes."""
    if not isinstance(content, bytes):
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        content = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()


def question_id(
    system: str | None, messages: Sequence[Mapping[str, Any]], expected: Sequence[str]
) -> str:
    """Of a question: the turns as a client sends them, and what is expected."""
    return content_id([system, [dict(turn) for turn in messages], list(expected)])


def cut(text: str) -> str:
    """As much of a text as is shown."""
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def in_order_of(examples: Sequence[Example], values: Sequence[T]) -> list[T]:
    """`values`, one an example, in the order of the examples' ids: that in which they are drawn."""
    order = sorted(range(len(examples)), key=lambda number: examples[number].id)
    return [values[number] for number in order]


def write_examples(
    path: Path, max_new_tokens: int, examples: Iterable[Example], groups: Sequence[Group] = ()
) -> None:
    """In order of kind and id."""
    head: dict[str, Any] = {"schema": SCHEMA, "max_new_tokens": max_new_tokens}
    if groups:
        head["groups"] = [each.as_data() for each in groups]
    lines = [head]
    for each in sorted(examples, key=lambda each: (KINDS.index(each.kind), each.id)):
        line: dict[str, Any] = {"kind": each.kind, "id": each.id, **each.shown}
        if each.tokens is not None:
            line["tokens"] = each.tokens
        lines.append(line | each.results)
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def read_examples(content: bytes) -> ExampleSet:
    """What `write_examples` wrote. Raises NotExamples, also for a number that is none."""
    lines = content.decode("utf-8", "replace").split("\n")
    head = _object(lines[0], 1)
    if head.get("schema") != SCHEMA:
        raise NotExamples(f"its schema is {head.get('schema')!r}, and {SCHEMA} is known")
    if type(head.get("max_new_tokens")) is not int:
        raise NotExamples("its first line does not say max_new_tokens")
    found: dict[tuple[str, str, int], Example] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        example = _example(_object(line, number), number)
        before = seen.get((example.kind, example.id), 0)
        seen[example.kind, example.id] = before + 1
        found[example.kind, example.id, before] = example
    return ExampleSet(head["max_new_tokens"], found, _groups(head.get("groups", [])))


def _groups(given: Any) -> tuple[Group, ...]:
    if not isinstance(given, list):
        raise NotExamples("the groups of its first line are no list")
    try:
        return tuple(map(Group.of, given))
    except ValueError as error:
        raise NotExamples(str(error)) from None


def _object(line: str, number: int) -> dict[str, Any]:
    def refuse(name: str) -> Any:
        raise NotExamples(f"line {number} holds {name}, which is no number")

    try:
        found = json.loads(line, parse_constant=refuse)
    except NotExamples:
        raise
    except (ValueError, RecursionError):
        raise NotExamples(f"line {number} is no JSON") from None
    if not isinstance(found, dict):
        raise NotExamples(f"line {number} is no JSON object")
    return found


def _example(line: dict[str, Any], number: int) -> Example:
    kind, content, tokens = line.pop("kind", None), line.pop("id", None), line.pop("tokens", None)
    if kind not in KINDS or not isinstance(content, str):
        raise NotExamples(f"line {number} is no example")
    results = {name: line.pop(name) for name in MODELS if name in line}
    if not all(isinstance(each, dict) for each in results.values()) or not _counts(tokens):
        raise NotExamples(f"line {number} is no example")
    for values in results.values():
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):  # 1e999
                raise NotExamples(f"line {number}: {name} is no number")
            if not isinstance(value, str | int | float | bool | None):
                raise NotExamples(f"line {number}: {name} is neither text nor number")
    return Example(kind, content, line, results, tokens)


def _counts(tokens: Any) -> bool:
    return tokens is None or (type(tokens) is int and tokens > 0)
