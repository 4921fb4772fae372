"""Live progress on stderr, from the run's event file alone: a bar on a terminal, lines elsewhere.

The file is the only source, so a second process or a container can show the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from runner.execution.events import read_events
from runner.report.canary_line import canary_line
from runner.report.printable import escaped, lines_escaped

LINE_INTERVAL = 10.0  # seconds between progress lines where there is no terminal
POLL_INTERVAL = 0.2  # seconds between looks at the event file


class _Display(Protocol):
    def stage(self, name: str, state: str, event: dict[str, Any]) -> None: ...
    def step(self, name: str, event: dict[str, Any]) -> None: ...
    def say(self, message: str) -> None: ...
    def close(self) -> None: ...


class Progress:
    """Follows an event file. Call `poll` often; it looks at the file a few times a second."""

    def __init__(self, events: Path, stages: Sequence[str], stream: TextIO) -> None:
        self._events = events
        self._offset = 0
        self._next_look = 0.0
        self._display: _Display = (
            _Bars(stages, stream) if stream.isatty() else _Lines(stages, stream)
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._look()
        self._display.close()

    def poll(self) -> None:
        """Show what happened since the last look."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + POLL_INTERVAL
            self._look()

    def say(self, message: str) -> None:
        """Show a message that is no event: building an environment, waiting for a lock."""
        self._look()
        self._display.say(message)

    def _look(self) -> None:
        events, self._offset = read_events(self._events, self._offset)
        for event in events:
            if event["event"] == "stage":
                self._display.stage(event["stage"], event["state"], event)
            elif event["event"] == "progress":
                self._display.step(event["stage"], event)
            elif event["event"] == "measure" and isinstance(event["values"].get("canary"), dict):
                line = canary_line(event["values"]["canary"], event["time"])
                self._display.say(f"      {event['stage']:<10} {line}")


class _Lines:
    """Plain lines for logs: every stage's start and end, and a step now and then."""

    def __init__(self, stages: Sequence[str], stream: TextIO) -> None:
        self._stream = stream
        self._numbers = {name: number for number, name in enumerate(stages, 1)}
        self._next_line = 0.0

    def stage(self, name: str, state: str, event: dict[str, Any]) -> None:
        seconds = f" in {event['seconds']:.1f} s" if "seconds" in event else ""
        number = self._numbers.get(name, 0)
        self.say(f"[{number}/{len(self._numbers)}] {name:<10} {_state_word(state)}{seconds}")
        self._next_line = 0.0

    def step(self, name: str, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if now < self._next_line and event["step"] < event["total"]:
            return
        self._next_line = now + LINE_INTERVAL
        self.say(f"      {name:<10} {amount(event)}  {step_details(event)}".rstrip())

    def say(self, message: str) -> None:
        print(lines_escaped(message), file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class _Bars:
    """One bar for the stage at work; finished stages stay above it as lines."""

    def __init__(self, stages: Sequence[str], stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._lines = _Lines(stages, stream)
        self._console = Console(file=stream)
        self._bar = RichProgress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.start()
        self._task: Any = None
        self._lines.say = self.say  # type: ignore[method-assign]

    def stage(self, name: str, state: str, event: dict[str, Any]) -> None:
        self._drop_task()
        if state == "start":
            self._task = self._bar.add_task(name, total=1, details="")
        else:
            self._lines.stage(name, state, event)

    def step(self, name: str, event: dict[str, Any]) -> None:
        if self._task is None:
            self._task = self._bar.add_task(name, total=1, details="")
        self._bar.update(
            self._task,
            completed=event["step"],
            total=event["total"],
            details=f"{amount(event)} {step_details(event)}",
        )

    def say(self, message: str) -> None:
        self._console.print(lines_escaped(message), highlight=False, markup=False)

    def close(self) -> None:
        self._drop_task()
        self._bar.stop()

    def _drop_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def amount(event: dict[str, Any]) -> str:
    """How much of how much: `12/40`, or `1.2/16.1 GB` of a download."""
    if event.get("unit") != "bytes":
        return f"{event['step']}/{event['total']}"
    size, unit = next(
        ((size, unit) for size, unit in ((10**9, "GB"), (10**6, "MB")) if event["total"] >= size),
        (10**3, "kB"),
    )
    return f"{event['step'] / size:.1f}/{event['total'] / size:.1f} {unit}"


# What a method is judged by while it trains: of a progress event -> for people.
JUDGED_BY = {
    "loss": "loss",
    "reward": "reward",
    "margins": "margin",
    "accuracies": "accuracy",
    "scores": "score",
    "kl": "KL",
    "entropy": "entropy",
}


def step_details(event: dict[str, Any]) -> str:
    """The parts of a progress event worth a glance, from its message to the time that is left."""
    # A message may quote a model's answer, and a model may say anything.
    parts = [escaped(str(event["message"]))] if event.get("message") else []
    parts += [
        f"{words} {event[name]:.3f}"
        for name, words in JUDGED_BY.items()
        if event.get(name) is not None
    ]
    if event.get("tokens_per_second"):
        parts.append(f"{event['tokens_per_second']:.0f} tok/s")
    if event.get("memory"):
        parts.append(f"{event['memory'] / 1e9:.1f} GB")
    if event.get("eta") is not None:
        parts.append(f"{event['eta']:.0f} s left")
    return "  ".join(parts)


def _state_word(state: str) -> str:
    return {"start": "started", "reuse": "up to date", "failed": "FAILED"}.get(state, state)
