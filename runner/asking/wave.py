"""Work on several tasks at once, and get what they give in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from runner.errors import Interrupted

Result = TypeVar("Result")
LOOK_SECONDS = 0.2


def in_order(
    tasks: range,
    work: Callable[[int], Result],
    concurrency: int,
    stopping: threading.Event,
    on_early_end: Callable[[str], None],
) -> Generator[Result, None, None]:
    """`work` of every task, in the order of tasks; the first exception is raised.

    When it ends early nothing new is begun, and what is under way is waited for: each answer that
    was paid for gets into the log. `on_early_end` is told of how many tasks that is, and why; a
    second interrupt leaves them.
    """
    todo = iter(tasks)
    done: dict[int, Result] = {}
    failed: dict[int, BaseException] = {}
    under_way: set[int] = set()
    changed = threading.Condition()

    def worker() -> None:
        while True:
            with changed:
                task = None if stopping.is_set() or failed else next(todo, None)
                if task is None:
                    return
                under_way.add(task)
            try:
                result = work(task)
            except BaseException as error:  # whatever it is belongs to who asked for the result
                with changed:
                    failed[task] = error
                    under_way.discard(task)
                    changed.notify_all()
                return
            with changed:
                done[task] = result
                under_way.discard(task)
                changed.notify_all()

    threads = [
        threading.Thread(target=worker, daemon=True) for _ in range(min(concurrency, len(tasks)))
    ]
    for thread in threads:
        thread.start()
    try:
        for task in tasks:
            with changed:
                while task not in done and not failed:
                    changed.wait(LOOK_SECONDS)
                if task not in done:
                    raise next(iter(failed.values()))  # the first in time: others follow from it
            yield done.pop(task)
    except BaseException as error:
        stopping.set()
        with changed:
            left = len(under_way)
        if left:
            on_early_end(_waiting(error, left))
        _wait_for(threads)  # not in a `finally`, where a second interrupt of these lines would wait
        raise
    _wait_for(threads)


def _waiting(error: BaseException, left: int) -> str:
    """Why it ends, and what is waited for."""
    why = ""
    if isinstance(error, GeneratorExit):
        why = "no more is needed: "
    elif isinstance(error, Exception) and not isinstance(error, Interrupted):
        why = "a request failed, of which more is said in a moment: "
    return f"{why}waiting for what is under way ({left}), which is kept; Ctrl-C leaves it"


def _wait_for(threads: list[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
