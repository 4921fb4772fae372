"""A run's event file: JSON lines appended by the runner and every script (schemas/events-1.json).

Each event is one `write` to a file opened for appending, so lines of several processes never mix.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events and reads back what others appended. Offsets are bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def append(self, event: Mapping[str, Any]) -> None:
        """Append one event; the clock is added here and is never part of a hashed file."""
        text = json.dumps(
            {"time": time.time(), **event},
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        self._file.write(text.encode() + b"\n")

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
    return [json.loads(line) for line in complete.splitlines() if line.strip()], offset + len(
        complete
    )
