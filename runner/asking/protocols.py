"""How a model is asked and what it says: Ollama's `/api/chat`, and OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.asking.settings import Endpoint

Message = dict[str, str]
CHARACTERS_A_TOKEN = 3  # where a server does not count; rather too few than too many


class NotTheProtocol(ValueError):
    """A server's words that are no answer of this protocol."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said. `ended` is `stop`, `length` (cut off at max_tokens) or another word."""

    text: str
    ended: str
    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        """Of both."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that decides an answer."""

    endpoint: Endpoint
    messages: Sequence[Message]
    sampling: Mapping[str, Any]
    seed: int
    schema: Mapping[str, Any] | None

    def asked(self) -> dict[str, Any]:
        """For the log: whom, and the body. Ollama's address is left out: the machine says it."""
        body = _PROTOCOLS[_name(self.endpoint)].body(self)
        return {"to": self.endpoint.url or "ollama", "body": body}

    @property
    def most_tokens(self) -> int:
        """What it may cost: the prompt, estimated, and the longest answer."""
        prompt = sum(len(each["content"]) for each in self.messages) // CHARACTERS_A_TOKEN
        return prompt + int(self.sampling["max_tokens"])


def path_of(endpoint: Endpoint) -> str:
    """Where requests go, below the server's address."""
    return _PROTOCOLS[_name(endpoint)].path


def read_reply(asked: Mapping[str, Any], said: str) -> Reply:
    """What the server `said`. Raises NotTheProtocol."""
    protocol = _PROTOCOLS["ollama" if asked["to"] == "ollama" else "openai"]
    try:
        content = json.loads(said)
        text, ended, tokens = protocol.read(content)
        if not isinstance(text, str):
            raise NotTheProtocol("it holds no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise NotTheProtocol("this is no answer of the protocol") from None
    prompt = sum(len(each["content"]) for each in asked["body"]["messages"])
    estimates = (prompt // CHARACTERS_A_TOKEN, len(text) // CHARACTERS_A_TOKEN)
    counts = [
        given if isinstance(given, int) and given >= 0 else estimated
        for given, estimated in zip(tokens, estimates, strict=True)
    ]
    return Reply(text, ended if isinstance(ended, str) else "stop", *counts)


# --- the two


@dataclass(frozen=True, slots=True)
class _Protocol:
    path: str
    body: Callable[[Question], dict[str, Any]]
    read: Callable[[Any], tuple[Any, Any, tuple[Any, Any]]]  # text, how it ended, tokens


def _name(endpoint: Endpoint) -> str:
    return "ollama" if endpoint.url is None else "openai"


def _ollama_body(question: Question) -> dict[str, Any]:
    sampling, context = question.sampling, question.endpoint.num_ctx
    return {
        "model": question.endpoint.model,
        "messages": list(question.messages),
        "stream": False,
        "truncate": False,  # else the beginning of a long prompt is left out without a word
        "options": {
            "temperature": sampling["temperature"],
            "top_p": sampling["top_p"],
            "num_predict": sampling["max_tokens"],
            "seed": question.seed,
            **({"num_ctx": context} if context else {}),
        },
        **({"format": question.schema} if _constrains(question) else {}),
    }


def _ollama_read(content: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    tokens = (content.get("prompt_eval_count"), content.get("eval_count"))
    return content["message"]["content"], content.get("done_reason"), tokens


def _openai_body(question: Question) -> dict[str, Any]:
    sampling = question.sampling
    shape = {"name": "answer", "strict": True, "schema": question.schema}
    wanted = {"response_format": {"type": "json_schema", "json_schema": shape}}
    return {
        "model": question.endpoint.model,
        "messages": list(question.messages),
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "max_tokens": sampling["max_tokens"],
        "seed": question.seed,
        **(wanted if _constrains(question) else {}),
    }


def _openai_read(content: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    choice = content["choices"][0]
    usage = content.get("usage") or {}
    tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    text = choice["message"].get("content")
    if text is None and choice["message"].get("refusal"):
        return "", "refusal", tokens
    return text, choice.get("finish_reason"), tokens


def _constrains(question: Question) -> bool:
    return question.schema is not None and question.endpoint.structured


_PROTOCOLS = {
    "ollama": _Protocol("/api/chat", _ollama_body, _ollama_read),
    "openai": _Protocol("/chat/completions", _openai_body, _openai_read),
}
