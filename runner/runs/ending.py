"""End a run so that nothing is lost: a training ends behind a step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from runner.errors import UsageError
from runner.runs.known import KnownRun, read
from runner.runs.progress import stage_at_work, waits_for
from runner.scripts.training.stopping import STOP
from runner.store.store import Store

LOOK_SECONDS = 0.2


def stop(run: KnownRun, store: Store, *, now: bool, say: Callable[[str], None]) -> KnownRun:
    """Ask the run to end, and wait until it has; the run as it is then.

    A training is asked by a file beside its checkpoints, anything else by SIGINT, which loses only
    the stage at work; so does `now`. What waits has no step at hand, and loses nothing.
    Raises UsageError E930, E931.
    """
    pid = _process(run)
    place = None if now else _training_place(run, store)
    say(f"ending runs/{run.name}")
    if waited := waits_for(run.last_events()):
        say(f"it waits for {waited}: it ends at once")
    if place is None:
        os.kill(pid, signal.SIGINT)
    else:
        (place / STOP).touch()
        say("the training ends behind the step at hand, with a checkpoint (at once: --now)")
    while True:
        time.sleep(LOOK_SECONDS)
        found = read(run.folder)
        if not found.alive:
            return found
        if place is not None and _training_place(found, store) is None:
            place = None  # it had just ended, and the next stage is at work
            os.kill(pid, signal.SIGINT)


def _process(run: KnownRun) -> int:
    if not run.alive:
        raise UsageError(
            f"runs/{run.name} does not go on: it is {run.state}",
            hint="recipe ls shows what does",
            code="E930",
        )
    pid = run.pid
    if pid is None or not _may_signal(pid):
        host = run.record.get("host", {}).get("name", "unknown")
        raise UsageError(
            f"the process of runs/{run.name} is of another machine, container or user "
            f"(host {host})",
            hint="stop it there: recipe stop, or docker stop CONTAINER",
            code="E931",
        )
    return pid


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _training_place(run: KnownRun, store: Store) -> Path | None:
    """The scratch folder of the training that is at work now; None for any other stage."""
    at_work = stage_at_work(run.last_events()) or stage_at_work(run.all_events())
    if at_work is None or at_work["stage"] != "train":
        return None
    folder = store.scratch_folder("train", str(at_work["key"]))
    return folder if folder.is_dir() else None
