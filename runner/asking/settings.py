"""Who is asked, how, and what may be spent: settings that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

from runner.recipe.finding import Finding
from runner.recipe.source import pointer_tokens


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


def not_repeated(found: Finding) -> Finding | None:
    """What is wrong with a `key` or an `api`, whose value may be a secret; None for others."""
    tokens = pointer_tokens(found.pointer)
    if found.code not in ("E104", "E107") or tokens[-1:] not in (["key"], ["api"]):
        return None
    what = "the NAME of an environment variable, in capitals"
    if tokens[-1] == "api":
        what = "an http:// or https:// address without user, question mark or key"
    example = "https://api.example.com/v1" if tokens[-1] == "api" else "SYNTHESIS_API_KEY"
    hint = f"for example: {example}" if found.code == "E104" else found.hint
    return replace(found, message=f"{'.'.join(tokens)} must be {what}", hint=hint)


def is_address(url: str) -> bool:
    """Does it name a server?"""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
