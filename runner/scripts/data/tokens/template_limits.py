"""A chat template is a program of somebody else: it may fail in any way, and need not end.

It is rendered in a sandbox (template_sandbox), where it reaches no file and nothing of Python. What
it may still do is compute: for ever, or a text that fills the memory. Most of that is stopped from
within Python. One step of Python cannot be: a comparison of lists that hold each other a hundred
times over is such a step. For that the kernel keeps two limits while a template is rendered: an
address space, and a time after which the process is killed (last_rendered says what it was at).
Standard library only.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runner.scripts.alarm import AGAIN_SECONDS, TimeIsOver, ring
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.tokens import last_rendered
from runner.scripts.spec import ScriptError

SECONDS = 20.0  # of the processor, for one conversation: a template takes a thousandth of one
KILL_AFTER = 10.0  # more seconds, for a step of Python that looks at no signal
MEMORY = 1 << 30  # bytes of address space beyond what the process has
CHARACTERS = 64 << 20  # of a rendered conversation
_PAGE = resource.getpagesize()
_inside = False
_listening = False  # is SIGVTALRM handled?
_statm = (0, -1)  # process, and its file of the kernel's figures, which is read for every row


class Runaway(ScriptError):
    """A template takes more time or memory than any conversation needs.

    It is not a RowError: no other row would fare better, so nothing goes on after it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the chat template {what}", hint=last_rendered.HINT, code="E326")
        self.what, self.told = what, False

    def __reduce__(self) -> tuple[object, ...]:
        return _runaway, (self.what, self.message, self.told)

    def of(self, template: str | None, place: object = "") -> Runaway:
        """Itself, with the template as the recipe names it (None: the model's own) and the row."""
        if not self.told:
            row = f"{place}: " if str(place) else ""
            self.message, self.told = f"{row}{last_rendered.name_of(template)} {self.what}", True
            self.args = (self.message,)
        return self


def _runaway(what: str, message: str, told: bool) -> Runaway:
    error = Runaway(what)
    error.message, error.told = message, told
    return error


@contextmanager
def limited() -> Iterator[None]:
    """Raises RowError E326 for what fails, and Runaway for what takes too much.

    Time and memory are looked at in the main thread of a process alone, where all rows are
    rendered. Within itself it does nothing.
    """
    global _inside
    outermost = not _inside and threading.current_thread() is threading.main_thread()
    try:
        if outermost:
            _inside = True
            with _memory(), _time():
                yield
        else:
            yield
    except (RowError, ScriptError):
        raise
    except TimeIsOver:
        raise Runaway(f"has not ended after {SECONDS:g} s of the processor") from None
    except MemoryError:
        raise Runaway(f"takes more than {MEMORY >> 20} MiB of memory") from None
    except Exception as error:  # 1 / 0, 1 + "a", a macro without end: of a stranger's program
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise RowError(f"the chat template fails: {said}", "E326") from None
    finally:
        if outermost:
            _inside = False


@contextmanager
def naming(template: str | None) -> Iterator[None]:
    """Whatever runs away within is called as the recipe names it."""
    try:
        yield
    except Runaway as error:
        raise error.of(template) from None


def check_length(text: str) -> str:
    """The rendered text. Raises Runaway for one that is too long, and RowError E326 for one with
    half a surrogate pair, which is no text.
    """
    if len(text) > CHARACTERS:
        raise Runaway(f"writes {len(text)} characters, more than {CHARACTERS >> 20} Mi")
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise RowError("the chat template writes half a surrogate pair", "E326") from None
    return text


@contextmanager
def _time() -> Iterator[None]:
    """A signal that Python looks at between its steps, and one that waits for nobody."""
    global _listening
    if not _listening:  # once: to hand the signal back after every row takes longer than the row
        signal.signal(signal.SIGVTALRM, ring)
        _listening = True
    signal.setitimer(signal.ITIMER_PROF, SECONDS + KILL_AFTER)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def _memory() -> Iterator[None]:
    """A process that is refused memory raises MemoryError, wherever within one step it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space() + MEMORY
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Bytes that this process has now."""
    global _statm
    if _statm[0] != os.getpid():  # a file of /proc/self is of the process that opened it
        file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        _statm = os.getpid(), file
    return int(os.pread(_statm[1], 256, 0).split(maxsplit=1)[0]) * _PAGE
