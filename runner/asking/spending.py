"""What was spent and may be: the budget, and the pace at which requests are begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runner.asking.settings import Budget

LOOK_SECONDS = 0.2


class BudgetReached(Exception):
    """The next request might cost more than is left."""


class Stopped(Exception):
    """The command ends; nothing new is begun."""


class Spending:
    """Requests and tokens of everything in the log, and room for those under way."""

    def __init__(self, budget: Budget, stopping: threading.Event) -> None:
        self.requests = self.tokens = 0
        self._budget, self._stopping = budget, stopping
        self._under_way = self._reserved = 0
        self._waiting: list[int] = []  # tasks
        self._refused: int | None = None  # the first task that the budget did not suffice for
        self._changed = threading.Condition()

    def count(self, tokens: int) -> None:
        """One more answered request."""
        with self._changed:
            self.requests += 1
            self.tokens += tokens

    @contextmanager
    def reserve(self, tokens: int, task: int) -> Iterator[None]:
        """Room for one request of at most `tokens`. Raises BudgetReached, Stopped.

        While others are under way it waits: they may cost less than they might. The earliest task
        goes first, and behind one that was refused nothing more is spent: rows end there.
        """
        with self._changed:
            self._waiting.append(task)
            try:
                self._wait_for_room(tokens, task)
            finally:
                self._waiting.remove(task)
                self._changed.notify_all()
            self._under_way += 1
            self._reserved += tokens
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._reserved -= tokens
                self._changed.notify_all()

    def _wait_for_room(self, tokens: int, task: int) -> None:
        while True:
            if self._stopping.is_set():
                raise Stopped
            if self._refused is not None and task > self._refused:
                raise BudgetReached
            if task == min(self._waiting):
                if not self._too_much(tokens):
                    return
                if not self._under_way:
                    self._refused = task
                    raise BudgetReached
            self._changed.wait(LOOK_SECONDS)

    def _too_much(self, tokens: int) -> bool:
        most = self._budget
        requests = self.requests + self._under_way + 1
        spent = self.tokens + self._reserved + tokens
        return (most.requests is not None and requests > most.requests) or (
            most.tokens is not None and spent > most.tokens
        )


class Pace:
    """When the next request may begin: so many a minute, and not before a server said."""

    def __init__(self, per_minute: int | None, stopping: threading.Event) -> None:
        self._between = 60.0 / per_minute if per_minute else 0.0
        self._stopping = stopping
        self._mutex = threading.Lock()
        self._next = self._not_before = 0.0

    def wait_for_turn(self) -> None:
        """Raises Stopped."""
        with self._mutex:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._between
        while (left := max(turn, self._not_before) - time.monotonic()) > 0:
            self.sleep(left)

    def hold_all(self, seconds: float) -> None:
        """Begin nothing for so long: the server is busy for everybody."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Raises Stopped."""
        if self._stopping.wait(seconds):
            raise Stopped
