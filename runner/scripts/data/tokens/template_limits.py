"""A chat template is a program of somebody else: it may fail in any way, and need not end.

Transformers renders it in Jinja's sandbox, where it reaches no file and nothing of Python. What it
may still do is compute: for ever, or a text that fills the memory. Standard library only.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from runner.scripts.alarm import TimeIsOver, alarm
from runner.scripts.data.files.rows import RowError

SECONDS = 20.0  # of the processor, for one conversation: a template takes a thousandth of one
CHARACTERS = 64 << 20  # of a rendered conversation
# What a template raises by itself, beside Jinja's own errors: 1 / 0, 1 + "a", a macro without end.
FAILS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError)
FAILS += (ValueError,)


@contextmanager
def limited() -> Iterator[None]:
    """Raises RowError E326 for what fails, and after SECONDS of this process's processor time.

    The time is looked at in the main thread of a process alone, where all rows are rendered.
    """
    try:
        with _timer():
            yield
    except TimeIsOver:
        wrong = f"the chat template has not ended after {SECONDS:g} s"
        raise RowError(wrong, "E326") from None
    except FAILS as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise RowError(f"the chat template fails: {said}", "E326") from None


def check_length(text: str) -> str:
    """The rendered text. Raises RowError E326 for one that no conversation has."""
    if len(text) > CHARACTERS:
        wrong = f"the chat template writes {len(text)} characters, more than {CHARACTERS >> 20} Mi"
        raise RowError(wrong, "E326")
    return text


def _timer() -> AbstractContextManager[None]:
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return alarm(signal.ITIMER_VIRTUAL, SECONDS)
