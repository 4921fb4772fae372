"""The folder of one run, `runs/NAME/ID/`; `runs/NAME/latest` points to the newest finished one.

Written in this order, so that a kill at any moment leaves something true: `run.json` says `running`
first; results are linked in; `manifest.json` comes last, and no manifest means not done.

While it is being written its folder itself is locked, so that `recipe gc` knows whose hidden
`.partial` files nobody will finish.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.errors import MachineCannot
from runner.execution.checksums import write_checksums
from runner.stages.contract import Outputs
from runner.store.atomic import (
    TEMPORARY_SUFFIX,
    disk_errors,
    fsync_folder,
    fsync_tree,
    make_folders,
    write_atomic,
)
from runner.store.publish import publish

MANIFEST = "manifest.json"
# Where a stage's results appear in the run folder. The base model is not shown: it is no result.
SHOWN_AS = {
    "prepare": "prepared",
    "train": ".",
    "evaluate": "evaluation",
    "harness": "harness",
    "constants": "constants",
    "merge": "merged",
    "fidelity": "fidelity",
    "imatrix": "imatrix",
    "gguf": "gguf",
    "ollama": "ollama",
    "benchmark": "benchmark",
}


def runs_folder(project_root: Path, name: str) -> Path:
    """Where the runs of recipe `name` lie."""
    return project_root / "runs" / name


class RunFolder:
    """One run's folder. Created when there is something to do, never for an up-to-date recipe."""

    def __init__(self, runs: Path) -> None:
        self.started = datetime.now(UTC)
        self._shown: dict[str, str] = {}  # path -> sha256
        with disk_errors("making the run's folder", runs):
            self.path = _new_folder(runs, self.started)
            self._held: int | None = _hold(self.path)
            self.logs = self.path / "logs"
            self.logs.mkdir()
            self.events = self.path / "events.jsonl"
            self.events.touch()

    @property
    def id(self) -> str:
        return self.path.name

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json: clocks, host, hardware, keys and measures; everything that may vary."""
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        with disk_errors("writing run.json", self.path):
            write_atomic(self.path / "run.json", text + "\n")

    def show(self, outputs: Outputs) -> None:
        """Put a stage's results into the folder by reflink, hard link or copy."""
        place = SHOWN_AS.get(outputs.stage)
        if place is None:
            return
        with disk_errors("showing the results in the run's folder", self.path):
            for path in sorted(outputs.files):
                target = self.path / place / path
                target.parent.mkdir(parents=True, exist_ok=True)
                publish(outputs.path(path), target)
                shown = target.relative_to(self.path).as_posix()
                self._shown[shown] = outputs.files[path].sha256

    def finish(self, manifest: bytes) -> None:
        """Write checksums; the manifest, last, when all that it names is on the disk; `latest`."""
        with disk_errors("finishing the run's folder", self.path):
            write_checksums(self.path, manifest, self._shown)
            fsync_tree(self.path)
            write_atomic(self.path / MANIFEST, manifest)
            point_latest(self.path)

    def finished(self) -> bool:
        """Is the manifest there? Then the run is done, whatever happens after."""
        return (self.path / MANIFEST).is_file()

    def close(self) -> None:
        """Nothing more will be written into the folder."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def point_latest(folder: Path) -> None:
    """Make `latest` beside `folder` point to it, atomically and relatively."""
    temporary = folder / f".latest{TEMPORARY_SUFFIX}"  # it means something only where it will be
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(folder.name)
        temporary.replace(folder.parent / "latest")
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(folder.parent)


def _hold(folder: Path) -> int | None:
    """Lock the folder itself; None on a file system that has no such locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def latest_run(runs: Path) -> Path | None:
    """The newest finished run, or None."""
    link = runs / "latest"
    return link.resolve() if (link / MANIFEST).is_file() else None


def runs_newest_first(runs: Path) -> list[Path]:
    """The folders of a recipe's runs, finished or not; none where it cannot be read.

    Their names are times.
    """
    try:
        found = [each for each in runs.iterdir() if each.is_dir() and not each.is_symlink()]
    except OSError:
        return []
    return sorted(found, reverse=True)


def _new_folder(runs: Path, now: datetime) -> Path:
    try:
        make_folders(runs)
    except (FileExistsError, NotADirectoryError):
        raise MachineCannot(
            f"{runs} cannot be a folder for runs: a file is in its place",
            hint="move that file away, then run the same command again",
            code="E412",
        ) from None
    stem = now.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            folder = runs / f"{stem}{suffix}"
            folder.mkdir()
            fsync_folder(runs)
            return folder
    raise FileExistsError(f"{runs}/{stem}: too many runs within one second")
