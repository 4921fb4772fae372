"""Ask a model, through the log: what was answered before is never asked, or paid for, again."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.asking.http import Address, Failure, post
from runner.asking.log import Log, request_digest
from runner.asking.protocols import NotTheProtocol, Question, Reply, path_of, read_reply
from runner.asking.settings import Asks, Endpoint
from runner.asking.spending import Pace, Spending, Stopped
from runner.errors import MachineCannot, RecipeToolError
from runner.system.ollama import pull_command

MAX_WAIT = 600.0  # seconds that a server may ask us to wait; longer ends the command
MAX_BACKOFF = 120.0
_BUSY = (408, 425, 429)


@dataclass
class Tally:
    """Of one command: answers taken from the log, new ones, tries that gave none, tokens."""

    from_log: int = 0
    new: int = 0
    failed_tries: int = 0
    prompt_tokens: int = 0  # of every answer that was used, from the log or not
    answer_tokens: int = 0
    new_tokens: int = 0


class Asker:
    """Asks by the settings. `addresses` is None when nothing may be asked (--offline)."""

    def __init__(
        self,
        settings: Asks,
        log: Log,
        addresses: Mapping[Endpoint, Address] | None,
        stopping: threading.Event,
    ) -> None:
        self.tally = Tally()
        self.spending = Spending(settings.budget, stopping)
        for asked, said in log.answers():
            self.spending.count(_reply(asked, said).tokens)
        self._how = settings.requests
        self._log, self._addresses, self._stopping = log, addresses, stopping
        self._pace = Pace(settings.requests.per_minute, stopping)
        self._reached: set[Endpoint] = set()
        self._mutex = threading.Lock()

    @property
    def log_path(self) -> Path:
        """Where every answer can be read."""
        return self._log.path

    def ask(self, question: Question, task: int) -> tuple[Reply, str]:
        """The answer to a question of a task, and the digest of the request.

        Raises BudgetReached, Stopped, and RecipeToolError when the server gives none.
        """
        asked = question.asked()
        digest = request_digest(asked)
        if digest in self._log:
            reply = _reply(asked, self._log.answer(digest))
            self._note(reply, new=False)
            return reply, digest
        with self.spending.reserve(question.most_tokens, task):
            if self._addresses is None:
                raise _not_in_the_log(self._log)
            said = self._sent(question, self._addresses[question.endpoint])
            reply = _reply(asked, said)
            self._log.add(asked, said)
            self.spending.count(reply.tokens)
        self._note(reply, new=True)
        return reply, digest

    def _sent(self, question: Question, address: Address) -> str:
        """The server's words, which are an answer of its protocol."""
        asked, endpoint = question.asked(), question.endpoint
        for number in range(self._how.retries + 1):
            if self._stopping.is_set():
                raise Stopped
            self._log.check_room()
            self._pace.wait_for_turn()
            try:
                said = post(address, path_of(endpoint), asked["body"], self._how.timeout)
                read_reply(asked, said)
            except NotTheProtocol:
                words = address.words_without_key(" ".join(said.split()))[:120]
                failure = Failure(f"this is no answer of a model: {words or 'nothing'}")
            except Failure as error:
                failure = error
            else:
                self._reached.add(endpoint)
                return said
            with self._mutex:
                self.tally.failed_tries += 1
            if self._is_final(failure, endpoint) or number == self._how.retries:
                raise _error(failure, endpoint, address, number + 1, self._how.timeout)
            self._wait(failure, number)
        raise AssertionError("the last try returns or raises")

    def _is_final(self, failure: Failure, endpoint: Endpoint) -> bool:
        """Does trying again make no sense?"""
        if failure.status and failure.status < 500 and failure.status not in _BUSY:
            return True
        if (failure.wait or 0.0) > MAX_WAIT or failure.hopeless:
            return True
        return failure.absent and endpoint not in self._reached

    def _wait(self, failure: Failure, number: int) -> None:
        seconds = min(MAX_BACKOFF, self._how.backoff * 2**number)
        if failure.wait is not None:
            seconds = failure.wait
        if failure.status in (429, 503):
            self._pace.hold_all(seconds)
        self._pace.sleep(seconds)

    def _note(self, reply: Reply, *, new: bool) -> None:
        with self._mutex:
            self.tally.from_log += not new
            self.tally.new += new
            self.tally.prompt_tokens += reply.prompt_tokens
            self.tally.answer_tokens += reply.answer_tokens
            self.tally.new_tokens += reply.tokens if new else 0


def addresses_of(settings: Asks, ollama_url: str) -> dict[Endpoint, Address]:
    """Where each endpoint is, with its key. Raises MachineCannot (E902) without the key."""
    return {
        endpoint: Address(endpoint.url or ollama_url, _key(endpoint))
        for endpoint in settings.endpoints
    }


def _key(endpoint: Endpoint) -> str | None:
    if endpoint.key is None:
        return None
    key = os.environ.get(endpoint.key, "").strip()
    if not key:
        raise MachineCannot(
            f"the environment variable {endpoint.key}, which holds the key of {endpoint.url}, "
            "is not set",
            hint=f"export {endpoint.key}=..., then run the same command again",
            code="E902",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise MachineCannot(
            f"what is in {endpoint.key} cannot be a key: it holds spaces or other characters "
            "that no HTTP header takes",
            hint=f"set {endpoint.key} to the key alone",
            code="E902",
        )
    return key


def _reply(asked: Mapping[str, object], said: str) -> Reply:
    """An answer that was checked before it was written to the log."""
    try:
        return read_reply(asked, said)
    except NotTheProtocol:
        return Reply("", "unreadable", 0, 0)  # of a log whose digests were made to fit


class NotInTheLog(MachineCannot):
    """A request is needed that nobody answered yet, and nobody may be asked."""


def _not_in_the_log(log: Log) -> NotInTheLog:
    return NotInTheLog(
        f"--offline, and {log.path} ({len(log)} answers) has none to a request that is needed",
        hint="run the same command without --offline; was the file changed since?",
        code="E909",
    )


def _error(
    failure: Failure, endpoint: Endpoint, address: Address, tries: int, timeout: float
) -> RecipeToolError:
    """What to tell the user; the log keeps every answer that came before."""
    who = f"{endpoint.model} at {address.url}"
    times = f" ({tries} tries)" if tries > 1 else ""
    said = f"{who}: {failure.words}{times}"
    again = "then run the same command again: answers that have come are in the log"
    if failure.absent or failure.hopeless:
        return MachineCannot(
            f"nobody answers: {said}",
            hint=f"start the server or correct its address, {again}",
            code="E901",
        )
    if failure.status in (401, 403):
        named = f"the key in {endpoint.key}" if endpoint.key else "a key (endpoint.key names it)"
        return MachineCannot(f"no access: {said}", hint=f"check {named}, {again}", code="E902")
    if failure.status == 404:
        hint = f"check model and address, {again}"
        if endpoint.url is None:
            hint = "run the same command again, for which answers that have come are in the log, "
            hint += f"after: {pull_command(endpoint.model)}"
        return MachineCannot(f"no such model or path: {said}", hint=hint, code="E903")
    if failure.status == 429:
        hint = f"wait, or lower requests.per_minute and requests.concurrency, {again}"
        return RecipeToolError(f"too many requests: {said}", hint=hint, code="E904")
    if 300 <= failure.status < 400:
        setting = "endpoint.api" if endpoint.url else "OLLAMA_HOST"
        hint = (
            "no redirect is followed, which would take the key elsewhere: write the final address "
        )
        hint += f"in {setting}, without its {path_of(endpoint)}, {again}"
        return RecipeToolError(f"the server sends elsewhere: {said}", hint=hint, code="E906")
    if failure.status and failure.status < 500:
        hint = "a prompt that is too long: raise num_ctx or lower `chunk`; a server that takes no "
        hint += "schema: structured: false"
        return RecipeToolError(f"the server refuses the request: {said}", hint=hint, code="E906")
    hint = f"see the server's own log, {again}"
    if failure.late:
        hint = f"raise requests.timeout (now {timeout:g} s), or {hint}"
    return RecipeToolError(f"the server fails: {said}", hint=hint, code="E905")
