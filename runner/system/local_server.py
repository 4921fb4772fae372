"""A server of our own on a free port of 127.0.0.1, and plain HTTP to servers.

The port is chosen by the kernel and may be taken by someone else before the server binds it; then
the server ends, and the next port is tried.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runner.errors import MachineCannot
from runner.system import process, process_tree

PORTS_TRIED = 5
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Order:
    """How to start a server that will listen on the given port."""

    argv: list[str]
    env: Mapping[str, str]


class NoAnswer(Exception):
    """Nothing listens there, it does not speak HTTP, or it went away in the middle."""


class Refused(Exception):
    """The server answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def is_loopback(host: str) -> bool:
    """Is it an address, or the name, of this machine alone?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_on_free_port(
    order: Callable[[int], Order],
    *,
    name: str,
    ready_path: str,
    folder: Path,
    log: Path,
    ready_seconds: float = 120.0,
    choose_port: Callable[[], int] = free_port,
) -> tuple[process.Service, int]:
    """Start a server and wait until it answers `GET ready_path`; it dies with the runner.

    Raises MachineCannot (E441) when it does not come up on any of a few ports, naming the log.
    """
    for _ in range(PORTS_TRIED):
        port = choose_port()
        how = order(port)
        service = process.start_service(how.argv, env=how.env, cwd=folder, log=log)
        try:
            if _becomes_ready(service, port, ready_path, ready_seconds):
                return service, port
        except BaseException:
            service.stop()
            raise
        if service.alive():
            service.stop()
            raise _did_not_start(f"{name} did not answer within {ready_seconds:.0f} s", log)
        service.stop()
        if "address already in use" not in process.tail(log, 20).lower():
            break
    raise _did_not_start(f"{name} does not start", log)


def _becomes_ready(
    service: process.Service, port: int, ready_path: str, ready_seconds: float
) -> bool:
    url = f"http://127.0.0.1:{port}"
    limit = time.monotonic() + ready_seconds
    while service.alive() and time.monotonic() < limit:
        try:
            ask(url, "GET", ready_path, timeout=5.0)
        except (NoAnswer, Refused):
            time.sleep(LOOK_SECONDS)
            continue
        # Somebody else may have taken the port and answer in its place.
        if process_tree.listens(service.pid, port):
            return True
        time.sleep(LOOK_SECONDS)
    return False


def _did_not_start(message: str, log: Path) -> MachineCannot:
    lines = [line for line in process.tail(log, 3).splitlines() if line.strip()]
    said = f": {lines[-1].strip()[:300]}" if lines else ""
    return MachineCannot(f"{message}{said}", hint=f"read {log}", code="E441")


def ask(url: str, method: str, path: str, body: Any = None, *, timeout: float) -> Any:
    """One request with a JSON body and a JSON answer ({} for none), past any proxy.

    Raises NoAnswer and Refused. `timeout` in seconds, for each wait on the network.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    try:
        content = None if body is None else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        connection.request(method, parts.path.rstrip("/") + path, content, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{url}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise Refused(response.status, _error_words(answer))
    return _json(answer)


def _json(answer: bytes) -> Any:
    try:
        return json.loads(answer) if answer.strip() else {}
    except ValueError:
        return {}


def _error_words(answer: bytes) -> str:
    content = _json(answer)
    said = content.get("error") if isinstance(content, dict) else None
    if isinstance(said, dict):
        said = said.get("message")
    return str(said or answer.decode(errors="replace")[:300])
