"""An end to what may take for ever, in the main thread of a process. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# A timer rings again until it is heard: Python 3.11 sees no signal that the kernel hands to another
# thread, one of a library, while the main thread goes round in a loop.
AGAIN_SECONDS = 0.25


class TimeIsOver(Exception):
    """What is raised within."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises TimeIsOver from within after `seconds` by the clock on the wall. What handled SIGALRM
    before does so afterwards.
    """
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ring(*_: object) -> None:
    """Handles the signal of a timer. Raises TimeIsOver."""
    raise TimeIsOver
