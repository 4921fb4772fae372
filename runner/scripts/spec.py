"""How a script is told what to do and how it reports. Standard library only.

A spec is JSON: `hashed` decides the bytes of the outputs; `where` says where things lie (input
files and folders, output folder, scratch folder, event file) and never decides any byte.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One job. `hashed` as the stage wrote it; the rest are absolute paths."""

    hashed: dict[str, Any]
    inputs: dict[str, Path]
    folder: Path  # write the declared outputs here
    scratch: Path  # checkpoints; survives a kill
    events: Path  # JSON lines, appended


class Events:
    """Appends events (schemas/events-1.json); one write a line, so a reader never sees half."""

    def __init__(self, path: Path, stage: str) -> None:
        self._file = path.open("ab", buffering=0)
        self._stage = stage

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """`step` of `total` is done; fields: loss, tokens (by kind), memory (bytes), message."""
        self._write({"event": "progress", "step": step, "total": total, **fields})

    def measure(self, **values: Any) -> None:
        """Numbers for run.json (perplexity, counts, speeds); the last value of a name wins."""
        self._write({"event": "measure", "values": values})

    def fail(self, message: str, *, hint: str = "", code: str = "E500") -> None:
        """Say why the script ends without success, in the user's words. Exit non-zero after it."""
        self._write({"event": "error", "code": code, "message": message, "hint": hint})

    def _write(self, event: dict[str, Any]) -> None:
        line = {"time": time.time(), "stage": self._stage, **event}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(text.encode() + b"\n")


class ScriptError(Exception):
    """A failure the user can do something about: an `error` event and exit code 1."""

    def __init__(self, message: str, *, hint: str = "", code: str = "E500") -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


def load_spec(path: str | None = None) -> tuple[Spec, Events]:
    """Read the spec named on the command line."""
    raw = json.loads(Path(path or sys.argv[1]).read_text(encoding="utf-8"))
    where = raw["where"]
    spec = Spec(
        hashed=raw["hashed"],
        inputs={name: Path(value) for name, value in where["inputs"].items()},
        folder=Path(where["folder"]),
        scratch=Path(where["scratch"]),
        events=Path(where["events"]),
    )
    return spec, Events(spec.events, raw["stage"])


def main(job: Any) -> None:
    """Run `job(spec, events)`; a ScriptError becomes an error event and exit code 1."""
    spec, events = load_spec()
    try:
        job(spec, events)
    except ScriptError as error:
        events.fail(error.message, hint=error.hint, code=error.code)
        print(f"{error.code}: {error.message}", file=sys.stderr)
        raise SystemExit(1) from None
