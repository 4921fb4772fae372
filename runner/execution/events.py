"""A run's event file: JSON lines appended by the runner and every script (schemas/events-1.json).

Each event is one `write` to a file opened for appending, so lines of several processes never mix.
On a full disk, or when its writer is killed, a line may end in the middle: it is passed over, and
the next event begins on a line of its own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events and reads back what others appended. Offsets are bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)

    def append(self, event: Mapping[str, Any]) -> None:
        """Append one event; the clock is added here and is never part of a hashed file."""
        text = json.dumps(
            {"time": time.time(), **event},
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        line = self._line_break() + text.encode() + b"\n"
        if (written := self._file.write(line)) < len(line):
            self._file.write(line[written:])  # says why: most often that the disk is full

    def _line_break(self) -> bytes:
        """What ends a line that another writer could not end."""
        size = os.fstat(self._file.fileno()).st_size
        torn = size > 0 and os.pread(self._file.fileno(), 1, size - 1) != b"\n"
        return b"\n" if torn else b""

    def position(self) -> int:
        """Offset of the end: hand it to `since` later."""
        return self.path.stat().st_size

    def since(self, offset: int) -> list[dict[str, Any]]:
        """All complete events after `offset`."""
        return read_events(self.path, offset)[0]

    def close(self) -> None:
        self._file.close()


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Complete events after `offset`, and the offset after them. A line being written is left."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    complete = data[: data.rfind(b"\n") + 1]
    events = [event for line in complete.split(b"\n") if (event := _parsed(line)) is not None]
    return events, offset + len(complete)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None for an empty or a torn one."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
