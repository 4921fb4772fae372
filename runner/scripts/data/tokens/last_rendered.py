"""Which row is being rendered, in a file: what can still be said when the kernel ends a process.

A chat template that computes without an end within one step of Python is killed (template_limits),
and a killed process says nothing. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runner.scripts.spec import ScriptError

FOLDER = "rendering"  # below the script's folder for scratch
SCRIPT = "script"  # the file of the script itself; those of its workers are called by their ids
KILLED_BY = signal.SIGPROF  # what the kernel sends by ITIMER_PROF
HINT = (
    "name a shipped template in data.chat_template (docs/templates.md lists them), or look at the "
    "loops and the calculations of this one; `recipe data inspect --recipe RECIPE` renders rows by "
    "it within the same limits"
)
_LONGEST = 4000  # bytes
_kept: _Kept | None = None


@dataclass
class _Kept:
    folder: Path
    template: str
    script: int  # its process id
    own: int = 0  # the process that has opened `file`
    file: int = -1

    def write(self, text: str) -> None:
        if self.own != os.getpid():  # forked from a process that has a file of its own
            self.own = os.getpid()
            name = SCRIPT if self.own == self.script else str(self.own)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self.file = os.open(self.folder / name, flags, 0o600)
        os.pwrite(self.file, text.encode()[:_LONGEST] + b"\n", 0)


@contextmanager
def kept_in(scratch: Path, template: str | None) -> Iterator[None]:
    """Within, this process and those that it forks say in files what they render.

    `template`: as the recipe names it; None is the model's own. The files go with the script,
    unless it is killed.
    """
    global _kept
    folder = scratch / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _kept = _Kept(folder, name_of(template), os.getpid())
    try:
        _kept.write(_kept.template)
        yield
    finally:
        if _kept.file >= 0:
            os.close(_kept.file)
        _kept = None
        shutil.rmtree(folder, ignore_errors=True)


def at(place: object) -> None:
    """A row is being rendered. Raises OSError when the disk is full."""
    if _kept is not None:
        _kept.write(f"{place}: {_kept.template}")


def name_of(template: str | None) -> str:
    """`template`: as the recipe names it; None is the model's own."""
    return f"the chat template {'of the model' if template is None else template}"


def of_worker(process: int) -> ScriptError:
    """What to say of a worker that a template kept busy until the kernel killed it."""
    assert _kept is not None
    return ScriptError(words_of(_kept.folder / str(process)), hint=HINT, code="E326")


def words_of(file: Path) -> str:
    """What to say of the process that wrote `file`, and was killed."""
    try:
        line, _, _ = file.read_bytes().partition(b"\n")
    except OSError:
        line = b""
    said = line.decode(errors="replace") or "a chat template"
    return f"{said} computes without an end, and was stopped"
