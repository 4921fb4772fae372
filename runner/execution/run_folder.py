"""The folder of one run, `runs/NAME/ID/`; `runs/NAME/latest` points to the newest finished one.

Written in this order, so that a kill at any moment leaves something true: `run.json` says `running`
first; results are linked in; `manifest.json` comes last, and no manifest means not done.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.errors import MachineCannot
from runner.stages.contract import Outputs
from runner.store.atomic import disk_errors, write_atomic
from runner.store.publish import publish

# Where a stage's results appear in the run folder. The base model is not shown: it is no result.
SHOWN_AS = {
    "prepare": "prepared",
    "train": ".",
    "evaluate": "evaluation",
    "merge": "merged",
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
        with disk_errors("making the run's folder"):
            self.path = _new_folder(runs, self.started)
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
        write_atomic(self.path / "run.json", text + "\n")

    def show(self, outputs: Outputs) -> None:
        """Put a stage's results into the folder by reflink, hard link or copy."""
        place = SHOWN_AS.get(outputs.stage)
        if place is None:
            return
        with disk_errors("showing the results in the run's folder"):
            for path in sorted(outputs.files):
                target = self.path / place / path
                target.parent.mkdir(parents=True, exist_ok=True)
                publish(outputs.path(path), target)

    def finish(self, manifest: bytes) -> None:
        """Write the manifest, last, and point `latest` here."""
        write_atomic(self.path / "manifest.json", manifest)
        point_latest(self.path)


def point_latest(folder: Path) -> None:
    """Make `latest` beside `folder` point to it, atomically and relatively."""
    link = folder.parent / "latest"
    temporary = folder.parent / f".latest-{folder.name}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def latest_run(runs: Path) -> Path | None:
    """The newest finished run, or None."""
    link = runs / "latest"
    return link.resolve() if (link / "manifest.json").is_file() else None


def _new_folder(runs: Path, now: datetime) -> Path:
    try:
        runs.mkdir(parents=True, exist_ok=True)
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
            return folder
    raise FileExistsError(f"{runs}/{stem}: too many runs within one second")
