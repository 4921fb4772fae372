"""A server of the tests that speaks as Ollama and as OpenAI do, and fails in the ways they fail.

What the "model" says depends on the request alone, so that two servers answer alike.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty"),
    *("knoll", "lagoon", "meadow", "nectar", "orchard", "pebble", "quarry", "ridge", "summit"),
    *("timber", "umber", "valley", "willow", "xenon", "yarrow", "zephyr"),
)


def made_up(seed: object, count: int = 9) -> str:
    """A sentence of words that the seed decides."""
    digest = hashlib.sha256(repr(seed).encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:count])


def obliging(schema: dict[str, Any] | None, prompt: str, seed: int) -> str:
    """The answer of a model that does as it is told."""
    if schema is None:
        return made_up((prompt, seed))
    return json.dumps(_fitting(schema, (prompt, seed)))


def _fitting(schema: dict[str, Any], seed: object) -> Any:
    if "enum" in schema:
        return schema["enum"][int(hashlib.sha256(repr(seed).encode()).hexdigest(), 16) % 2]
    if schema["type"] == "string":
        return made_up(seed)
    if schema["type"] == "array":
        return [_fitting(schema["items"], (seed, number)) for number in range(3)]
    fitting = {name: _fitting(each, (seed, name)) for name, each in schema["properties"].items()}
    if set(fitting) == {"best", "worst"}:
        fitting = {"best": "A", "worst": "B"}
    return fitting


@dataclass
class Asked:
    """One request, and what is to be done with it."""

    number: int  # from 0, in the order of arrival
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def seed(self) -> int:
        return int(self.body["options"]["seed"] if "options" in self.body else self.body["seed"])

    @property
    def schema(self) -> dict[str, Any] | None:
        wanted = self.body.get("format") or self.body.get("response_format", {})
        found: dict[str, Any] | None = wanted.get("json_schema", {}).get("schema") or wanted or None
        return found


@dataclass
class Answer:
    """What the server sends instead of the model's answer."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # the connection ends in the middle
    ended: str = "stop"
    said: str | None = None  # by the model; the rest as usual


Behaviour = Callable[[Asked], Answer | None]


class ModelServer:
    """Runs for a `with` block. `behave` may answer in the model's place; all is in `asked`."""

    def __init__(self, behave: Behaviour = lambda asked: None, seconds: float = 0.0) -> None:
        self.behave, self.seconds = behave, seconds
        self.says = obliging
        self.models: list[str] | None = None  # that it has as Ollama; None: it does not tell
        self.asked: list[Asked] = []
        self.answered = 0
        self.most_at_once = self._at_once = 0
        self._mutex = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

            def do_GET(self) -> None:
                told: dict[str, Any] = {"version": "0.0.0"}
                if self.path == "/api/tags" and server.models is not None:
                    told = {"models": [{"name": name} for name in server.models]}
                self._send(Answer(body=json.dumps(told)))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/api/show":
                    self._send(server._shown(body["model"]))
                    return
                with server._mutex:
                    asked = Asked(len(server.asked), self.path, dict(self.headers), body)
                    server.asked.append(asked)
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                time.sleep(server.seconds)
                answer = server.behave(asked) or Answer()
                if answer.status == 200 and not answer.body:
                    answer.body = server._model_answer(asked, answer)
                    with server._mutex:
                        server.answered += 1
                with server._mutex:
                    server._at_once -= 1
                self._send(answer)

            def _send(self, answer: Answer) -> None:
                content = answer.body.encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if answer.cut else content)

        return Handler

    def _shown(self, name: str) -> Answer:
        """Ollama finds some names that are not in its list."""
        if name in (self.models or ()) or name.startswith("unlisted"):
            return Answer(body=json.dumps({"modelfile": ""}))
        return Answer(404, json.dumps({"error": f"model '{name}' not found"}))

    def _model_answer(self, asked: Asked, answer: Answer) -> str:
        said = answer.said
        if said is None:
            said = self.says(asked.schema, asked.prompt, asked.seed)
        if asked.path == "/api/chat":
            counts = {"prompt_eval_count": 10, "eval_count": 5}
            turn = {"role": "assistant", "content": said}
            return json.dumps({"message": turn, "done_reason": answer.ended, **counts})
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        choice = {"message": {"content": said}, "finish_reason": answer.ended}
        return json.dumps({"choices": [choice], "usage": usage})
