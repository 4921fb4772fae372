"""A connection between the runners of two machines: messages as JSON lines, and signs of life.

It carries no number of the training. It is what tells a machine within a minute that another one is
gone, and at once when that one says why.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from typing import Any

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 60.0  # without a word a machine is lost; a busy one still says something
SEND_SECONDS = 10.0
_LIMIT = 1 << 22  # bytes of one message; a stranger may send anything


class Gone(Exception):
    """The other side is not there any more; the text says how that was noticed."""


class Link:
    """`name`: of the other machine, as a reader knows it."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(SEND_SECONDS)
        self.name = name
        self._connection = connection
        self._received = b""
        self._said = time.monotonic()
        self._heard: float | None = None  # it may be busy with something else before it answers

    @property
    def own_address(self) -> str:
        """Of this machine on the wire between the two."""
        return str(self._connection.getsockname()[0])

    def send(self, **message: Any) -> None:
        """Raises Gone."""
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(error.strerror or str(error)) from None
        self._said = time.monotonic()

    def heard(self, wait: float = 0.0) -> list[dict[str, Any]]:
        """Messages that have come; waits `wait` seconds for one. Raises Gone."""
        if time.monotonic() - self._said >= BEAT_SECONDS:
            self.send(alive=True)
        if select.select([self._connection], [], [], wait)[0]:
            self._receive()
        if self._heard is not None and time.monotonic() - self._heard > SILENCE_SECONDS:
            raise Gone(f"it said nothing for {SILENCE_SECONDS:.0f} s")
        *lines, self._received = self._received.split(b"\n")
        return [message for message in map(_read, lines) if "alive" not in message]

    def close(self) -> None:
        """Nothing more is said."""
        with contextlib.suppress(OSError):
            self._connection.close()

    def _receive(self) -> None:
        try:
            data = self._connection.recv(1 << 16)
        except OSError as error:
            raise Gone(error.strerror or str(error)) from None
        if not data:
            raise Gone("the connection was closed")
        self._heard = time.monotonic()
        self._received += data
        if len(self._received) > _LIMIT:
            raise Gone("it does not speak as a runner does")


def _read(line: bytes) -> dict[str, Any]:
    """Raises Gone for what no runner says."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise Gone("it does not speak as a runner does")
    return message
