"""What one check of `recipe doctor` says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.StrEnum):
    """`note` is worth knowing, `warning` may end a run, `problem` will."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """`found`: what is the case. `why` it matters and the `fix`, a command if there is one, are
    empty where nothing is to be done."""

    name: str
    state: State
    found: str
    why: str = ""
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Nothing is to be done."""
    return Check(name, State.OK, found)
