"""The questions of one task: as text or as JSON, each with a seed of its own, asked anew in bounds.

Every choice comes from the recipe's seed and the task's number by a hash, so that it depends
neither on other tasks nor on Python's version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Generic, TypeVar

from runner.asking.asker import Asker
from runner.asking.protocols import Question, Reply
from runner.asking.settings import Asks, Endpoint
from runner.store.digest import canonical_json

Checked = TypeVar("Checked")
Settings = TypeVar("Settings", bound=Asks)
MAX_SHOWN = 200  # characters of an answer in the list of those that could not be used


class Unusable(Exception):
    """What is wrong with an answer, in words; `reason` is what it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def drawn(seed: int, *which: int | str) -> int:
    """A number of 31 bits that seed and name decide."""
    digest = sha256(canonical_json([seed, *which])).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def some(count: int, among: int, seed: int, *which: int | str) -> list[int]:
    """`count` different indexes below `among`, or all of them, in an order of chance."""
    if 2 * count >= among:
        order = sorted(range(among), key=lambda index: (drawn(seed, *which, index), index))
        return order[:count]
    found: dict[int, None] = {}
    number = 0
    while len(found) < count:
        found[drawn(seed, *which, number) % among] = None
        number += 1
    return list(found)


class Talk(Generic[Settings]):
    """What one task says to models. `digests` are of all its requests, in order.

    `seeded_by`: what decides seeds besides settings and step; None for the task's number.
    """

    def __init__(
        self, settings: Settings, asker: Asker, task: int, seeded_by: str | None = None
    ) -> None:
        self.settings, self.task = settings, task
        self._seeded_by = task if seeded_by is None else seeded_by
        self.digests: list[str] = []
        self.unusable: list[Unusable] = []  # answers after which it was asked anew
        self._asker = asker

    def some(self, count: int, among: int, name: str) -> list[int]:
        """Indexes that this task draws."""
        return some(count, among, self.settings.seed, name, self.task)

    def text(self, prompt: str, step: str, endpoint: Endpoint | None = None) -> str:
        """An answer in words that is not empty. Raises Unusable."""
        return self._tried(prompt, step, endpoint, None, lambda said: said)

    def json(
        self,
        prompt: str,
        step: str,
        schema: Mapping[str, Any],
        check: Callable[[dict[str, Any]], Checked],
        endpoint: Endpoint | None = None,
    ) -> Checked:
        """What `check` makes of an answer in JSON; it raises Unusable, LookupError or TypeError."""
        return self._tried(prompt, step, endpoint, schema, lambda said: check(as_object(said)))

    def field(self, prompt: str, name: str, step: str = "") -> str:
        """The text `name` of an answer that is an object of it alone; `step` is called so, too."""
        schema = texts_schema(name)
        return self.json(prompt, step or name, schema, lambda said: text_of(said, name))

    def _tried(
        self,
        prompt: str,
        step: str,
        endpoint: Endpoint | None,
        schema: Mapping[str, Any] | None,
        check: Callable[[str], Checked],
    ) -> Checked:
        last = Unusable("no usable answer")
        for attempt in range(self.settings.requests.attempts):
            if attempt:
                self.unusable.append(last)
            said = self._asked(prompt, f"{step}:{attempt}", endpoint, schema)
            try:
                return check(_whole(said))
            except Unusable as error:
                last = Unusable(error.reason, error.detail or said.text[:MAX_SHOWN])
            except (LookupError, TypeError):
                last = Unusable("JSON of another shape", said.text[:MAX_SHOWN])
        raise last

    def _asked(
        self,
        prompt: str,
        step: str,
        endpoint: Endpoint | None,
        schema: Mapping[str, Any] | None,
    ) -> Reply:
        question = Question(
            endpoint or self.settings.endpoint,
            [{"role": "user", "content": prompt}],
            self.settings.sampling,
            drawn(self.settings.seed, self.settings.kind, self._seeded_by, step),
            schema,
        )
        reply, digest = self._asker.ask(question, self.task)
        self.digests.append(digest)
        return reply


def _whole(reply: Reply) -> str:
    """The text of an answer that the model itself ended. Raises Unusable."""
    if reply.ended == "length":
        raise Unusable("cut off at max_tokens")
    if reply.ended in ("content_filter", "refusal"):
        raise Unusable("refused by the server")
    if any("\ud800" <= character <= "\udfff" for character in reply.text):
        raise Unusable("half of a surrogate pair")
    if not reply.text.strip():
        raise Unusable("an empty answer")
    return reply.text.strip()


def as_object(said: str) -> dict[str, Any]:
    """The JSON object in an answer, which may stand between other words. Raises Unusable."""
    begin, end = said.find("{"), said.rfind("}")
    try:
        value = json.loads(said[begin : end + 1]) if 0 <= begin < end else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Unusable("no JSON", said[:MAX_SHOWN])
    return value


def text_of(value: Mapping[str, Any], key: str) -> str:
    """A text of an object. Raises Unusable, KeyError, TypeError."""
    text = value[key]
    if not isinstance(text, str):
        raise TypeError(key)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Unusable("half of a surrogate pair")
    if not text.strip():
        raise Unusable("an empty answer")
    return text.strip()


def texts_schema(*names: str) -> dict[str, Any]:
    """The JSON Schema of an object of texts."""
    return object_schema({name: {"type": "string"} for name in names})


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an object that has exactly these, as servers' strict modes want it."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def shown_json(names: Sequence[str]) -> str:
    """What a prompt says of the form of the answer."""
    inner = ", ".join(f'"{name}": "..."' for name in names)
    return f"Answer with JSON alone, in this form: {{{inner}}}"
