"""One request to a server, and what became of it. No redirect is followed: it would get the key."""

from __future__ import annotations

import email.utils
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from runner.asking.masking import without_key_in_answer, without_key_in_words
from runner.report.printable import escaped
from runner.system.ollama import LOOPBACK

MAX_ANSWER_BYTES = 64 << 20
MAX_WORDS = 300  # of a server, in a message


@dataclass(eq=False)
class Failure(Exception):
    """No answer. `status` is HTTP's, 0 without one; `wait` what the server asks for, in seconds."""

    words: str
    status: int = 0
    wait: float | None = None
    absent: bool = False  # nobody listens there
    hopeless: bool = False  # the next try would end the same way
    late: bool = False  # the time was up


@dataclass(frozen=True, slots=True)
class Address:
    """A server: its URL, and the key that it wants, which no message ever shows."""

    url: str
    key: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.url!r})"

    def words_without_key(self, words: str) -> str:
        """What a message tells of a server that may repeat what it was sent: at most MAX_WORDS."""
        return escaped(without_key_in_words(words, self.key))[:MAX_WORDS]


def post(address: Address, path: str, body: Mapping[str, Any], timeout: float) -> str:
    """The server's answer as it stands, but for the key. Raises Failure.

    `timeout` in seconds, for each wait on the network.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if address.key:
        headers["Authorization"] = f"Bearer {address.key}"
    request = urllib.request.Request(
        address.url.rstrip("/") + path, json.dumps(body).encode(), headers, method="POST"
    )
    try:
        with _opener(address.url).open(request, timeout=timeout) as response:
            answer = response.read(MAX_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise _refused(address, error) from None
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(address, error) from None
    if len(answer) > MAX_ANSWER_BYTES:
        raise Failure(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
    try:
        return without_key_in_answer(answer.decode("utf-8"), address.key)
    except UnicodeDecodeError:
        raise Failure("the answer is not UTF-8") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Past any proxy to this machine itself; else as the environment says."""
    here = urlsplit(url).hostname in LOOPBACK
    proxies = [urllib.request.ProxyHandler({})] if here else []
    return urllib.request.build_opener(_NoRedirect, *proxies)


def _refused(address: Address, error: urllib.error.HTTPError) -> Failure:
    with error:
        try:
            said = error.read(1 << 16).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            said = ""
    elsewhere = error.headers.get("Location") if 300 <= error.code < 400 else None
    words = address.words_without_key(f"to {elsewhere}" if elsewhere else _error_words(said))
    return Failure(
        f"HTTP {error.code}{': ' if words else ''}{words}",
        status=error.code,
        wait=seconds_to_wait(error.headers.get("Retry-After"), time.time()),
    )


def _no_answer(address: Address, error: Exception) -> Failure:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    words = str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
    begun = not isinstance(error, urllib.error.URLError)  # that is: after the connection stood
    certificate = isinstance(cause, ssl.SSLCertVerificationError)
    waited = isinstance(cause, TimeoutError)
    return Failure(
        "no answer in time" if waited else address.words_without_key(words),
        absent=not begun and not waited,
        hopeless=certificate,
        late=waited,
    )


def _error_words(said: str) -> str:
    try:
        content = json.loads(said)
        told = content.get("error", content.get("message"))
        if isinstance(told, dict):
            told = told.get("message")
        return str(told or said)
    except (ValueError, AttributeError, RecursionError):
        return " ".join(said.split())


def seconds_to_wait(header: str | None, now: float) -> float | None:
    """`Retry-After`, in seconds or as a date; None for none, or one that cannot be read."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return None
