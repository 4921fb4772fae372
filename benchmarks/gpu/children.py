"""Run one case in a process of its own, so that what ends it ends nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

DONE, NOT_RUN, FAILED = "done", "not run", "failed"
State = Literal["done", "not run", "failed"]
_LAST_WORDS = 300  # characters of the log's last line


@dataclass(frozen=True, slots=True)
class Outcome:
    """`answer`: what the child measured, where it is done. `reason`: why it is not."""

    state: State
    reason: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)


def run(argv: Sequence[str], env: Mapping[str, str], answer: Path, seconds: float) -> Outcome:
    """Start `argv` and wait; its words lie beside `answer`.

    It writes to `answer` {"done": {…}}, {"not run": why} or {"failed": why}. One that ends without
    an answer has failed, whatever its status; so has one that takes longer than `seconds`, which is
    killed with all that it started.
    """
    log = answer.with_suffix(".log")
    with log.open("wb") as words:
        child = subprocess.Popen(
            [*argv], env=dict(env), stdout=words, stderr=words, start_new_session=True
        )
    try:
        status = child.wait(seconds)
    except subprocess.TimeoutExpired:
        return Outcome(FAILED, f"took longer than {seconds:.0f} s")
    finally:
        _end(child)
    return _told(answer) or Outcome(FAILED, _how_it_ended(status, log))


def _end(child: subprocess.Popen[bytes]) -> None:
    """End it and whatever is left of its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _told(answer: Path) -> Outcome | None:
    try:
        told = json.loads(answer.read_bytes())
    except (OSError, ValueError):
        return None
    if DONE in told:
        return Outcome(DONE, answer=told[DONE])
    return Outcome(NOT_RUN, told[NOT_RUN]) if NOT_RUN in told else Outcome(FAILED, told[FAILED])


def _how_it_ended(status: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f": {lines[-1].strip()[:_LAST_WORDS]}" if lines else ""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}{last}"
    return f"ended with status {status} and no answer{last}"
