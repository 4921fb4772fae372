"""Who is asked, how, and what may be spent: settings that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Who is asked. `url` is None for Ollama, whose address the environment says.

    `num_ctx` are tokens of prompt and answer together; None is what the model says.
    """

    model: str
    url: str | None
    key: str | None  # name of the variable that holds it
    structured: bool
    num_ctx: int | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """How requests are sent; times in seconds."""

    concurrency: int
    timeout: int
    retries: int
    backoff: float
    per_minute: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent; None is no limit."""

    requests: int | None
    tokens: int | None


class Asks(Protocol):
    """Settings of a command that asks models. `kind`: what for, which decides the seeds too."""

    @property
    def kind(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Everybody who is asked."""

    @property
    def sampling(self) -> Mapping[str, Any]: ...

    @property
    def requests(self) -> Requests: ...

    @property
    def budget(self) -> Budget: ...


def endpoint_of(filled: Mapping[str, Any]) -> Endpoint:
    """Of a section that the schema has checked and filled."""
    if "ollama" in filled:
        return Endpoint(filled["ollama"], None, None, filled["structured"], filled["num_ctx"])
    url = filled["api"].rstrip("/")
    return Endpoint(filled["model"], url, filled["key"], filled["structured"])


def is_address(url: str) -> bool:
    """Does it name a server?"""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
