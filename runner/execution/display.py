"""How the one at the terminal is kept informed while stages run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Display:
    """`on_poll` is called often, and shows what new events say; `say` shows a message."""

    on_poll: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda message: None


OpenDisplay = Callable[[Path, list[str]], AbstractContextManager[Display]]  # of events and stages


@contextlib.contextmanager
def show_progress(events: Path, stages: list[str]) -> Iterator[Display]:
    """Bars or lines on stderr."""
    from runner.report.progress import Progress

    with Progress(events, stages, sys.stderr) as progress:
        yield Display(progress.poll, progress.say)
