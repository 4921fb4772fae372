"""An end to what may take for ever, in the main thread of a process. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = {signal.ITIMER_REAL: signal.SIGALRM, signal.ITIMER_VIRTUAL: signal.SIGVTALRM}


class TimeIsOver(Exception):
    """What is raised within."""


@contextmanager
def alarm(timer: int, seconds: float) -> Iterator[None]:
    """Raises TimeIsOver from within after `seconds`, by the clock on the wall (ITIMER_REAL) or of
    this process's processors (ITIMER_VIRTUAL). What handled the signal before does so afterwards.
    """
    rings = _SIGNALS[timer]
    before = signal.signal(rings, _ring)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(rings, before)


def _ring(*_: Any) -> None:
    raise TimeIsOver
