"""The runs below a project's `runs/`, finished or not, read from their folders alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.execution.events import read_events
from runner.system.process_tree import started_at
from runner.system.regular import NotReadable, is_folder, read_regular

RECORD, EVENTS = "run.json", "events.jsonl"
MAX_RECORD = 64 << 20  # bytes
RUNNING, LOST, BUSY = "running", "lost", "busy"
_DID_NOT_WAIT = ("E600", "E964")  # codes of a run that was told not to wait
_TAIL = 1 << 16  # bytes of the event file that tell what is at work


@dataclass(frozen=True)
class KnownRun:
    """`record`: run.json, empty where it cannot be read. `alive`: a process still writes to it."""

    folder: Path
    record: Mapping[str, Any]
    alive: bool

    @property
    def name(self) -> str:
        """RECIPE/ID, as it lies below runs/."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def state(self) -> str:
        """running, done, failed, interrupted; `lost`: it says running, and no process does it;
        `busy`: it would have had to wait, and was told not to."""
        said = str(self.record.get("state", LOST))
        if self.alive:
            return RUNNING
        if said == "failed" and self.error.get("code") in _DID_NOT_WAIT:
            return BUSY
        return LOST if said == RUNNING else said

    @property
    def error(self) -> Mapping[str, Any]:
        """Why it ended early; empty where it did not."""
        found = self.record.get("error")
        return found if isinstance(found, dict) else {}

    @property
    def here(self) -> bool:
        """Does its process, if there is one, belong to this machine (or container)?"""
        return bool(self.record.get("host", {}).get("name") == socket.gethostname())

    @property
    def pid(self) -> int | None:
        """Its process, where that can be told for sure: none that got the number later."""
        process = self.record.get("process", {})
        pid, started = process.get("pid"), process.get("started")
        if not self.here or not isinstance(pid, int) or started_at(pid) != started:
            return None
        return pid

    def last_events(self) -> list[dict[str, Any]]:
        """The events at the end of the file, oldest first; none where there is no file."""
        path = self.folder / EVENTS
        with contextlib.suppress(OSError):
            return read_events(path, max(0, path.stat().st_size - _TAIL))[0]
        return []

    def all_events(self) -> list[dict[str, Any]]:
        """Every event; none where there is no file."""
        with contextlib.suppress(OSError):
            return read_events(self.folder / EVENTS)[0]
        return []


def known_runs(root: Path) -> Iterator[KnownRun]:
    """The runs of the project at `root`, by recipe, oldest first."""
    for recipe in sorted(_folders(root / "runs")):
        for folder in sorted(_folders(recipe), key=_age):
            if _is_run(folder):
                yield read(folder)


def _folders(above: Path) -> list[Path]:
    if not is_folder(above):
        return []
    return [path for path in above.iterdir() if path.is_dir() and not path.is_symlink()]


def _age(folder: Path) -> tuple[str, int]:
    """20261129-120000-2 comes behind 20261129-120000, and -10 behind -2."""
    stem, _, number = folder.name[15:].partition("-")
    return folder.name[:15] + stem, int(number) if number.isdigit() else 0


def read(folder: Path) -> KnownRun:
    """The run in `folder`."""
    record: dict[str, Any] = {}
    with contextlib.suppress(NotReadable, OSError, ValueError, RecursionError):
        found = json.loads(read_regular(folder / RECORD, MAX_RECORD))
        record = found if isinstance(found, dict) else {}
    known = KnownRun(folder, record, alive=False)
    alive = _is_held(folder) or (known.record.get("state") == RUNNING and known.pid is not None)
    return KnownRun(folder, record, alive)


def _is_held(folder: Path) -> bool:
    """Whoever writes a run holds a lock of its folder (execution/run_folder.py)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)


def chosen(root: Path, path: Path | None) -> KnownRun:
    """The run that `path` names: its folder, or runs/NAME for the newest; below `root`/runs also
    as `recipe ls` prints it. Without one, the run that goes on, else the newest.

    Raises UsageError (E930) where there is none, or several go on.
    """
    runs = list(known_runs(root) if path is None else runs_at(named_below(path, root)))
    if not runs:
        what = f"{path} is no folder of a run" if path else f"there is no run below {root / 'runs'}"
        hint = "recipe ls shows the runs that there are"
        raise UsageError(what, hint=hint, code="E930")
    going = [run for run in runs if run.alive]
    if path is None and len(going) > 1:
        names = ", ".join(f"runs/{run.name}" for run in going)
        raise UsageError(f"{len(going)} runs go on: {names}", hint="name one of them", code="E930")
    return max(going or runs, key=lambda run: _age(run.folder))


def named_below(path: Path, root: Path | None = None) -> Path:
    """`path`, or what lies by that name below the runs of a project, where only that is of runs.

    `root`: the project's; None for that of the working folder.
    """
    from runner.recipe.paths import project_root

    below = (root or project_root(Path.cwd() / "x.yaml")) / "runs" / path
    return below if not any(runs_at(path)) and any(runs_at(below)) else path


def runs_at(path: Path) -> Iterator[KnownRun]:
    """The run in the folder `path`, or those of the recipe whose runs it holds."""
    if _is_run(path):
        yield read(path.resolve())
        return
    for folder in _folders(path):
        if _is_run(folder):
            yield read(folder.resolve())


def _is_run(folder: Path) -> bool:
    return (folder / "logs").is_dir() or (folder / RECORD).is_file()
