"""Checkpoints that can be told from half of a checkpoint. Standard library only.

A trainer writes `checkpoint-STEP/`; when all of it is on the disk, COMPLETE.json is added, last and
atomically. A folder without the marker, with other sizes than it lists, or of another job does not
count, and is removed before training goes on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

MARKER = "COMPLETE.json"
KEPT = 2  # complete checkpoints on the disk at once
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path, job: str) -> None:
    """Make every file below `folder` durable, then add the marker of the job with digest `job`."""
    sizes = {}
    rights = _usual_rights()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MARKER:
            path.chmod(rights)  # safetensors keeps its files from everybody else
            _sync(path)
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    temporary = folder / f"{MARKER}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"job": job, "files": sizes}, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)
    temporary.replace(folder / MARKER)
    _sync(folder)
    _sync(folder.parent)


def complete_checkpoints(folder: Path, job: str | None = None) -> list[Path]:
    """Complete checkpoints below `folder`, oldest first; of any job when `job` is None."""
    found = sorted((step_of(path), path) for path in _candidates(folder))
    return [path for _, path in found if _is_complete(path, job)]


def remove_incomplete(folder: Path, job: str) -> None:
    """Remove what looks like a checkpoint and cannot be used by this job."""
    usable = set(complete_checkpoints(folder, job))
    for path in _candidates(folder):
        if path not in usable:
            shutil.rmtree(path)


def remove_old(folder: Path, job: str) -> None:
    """Keep the newest KEPT complete checkpoints."""
    for path in complete_checkpoints(folder, job)[:-KEPT]:
        (path / MARKER).unlink()  # first, so that half a removal is no checkpoint
        shutil.rmtree(path)


def is_finished(checkpoint: Path) -> bool:
    """Was the training's last step done when this checkpoint was written?"""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    found = _NAME.fullmatch(path.name)
    assert found is not None, path
    return int(found.group(1))


def _candidates(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]


def _is_complete(path: Path, job: str | None) -> bool:
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if job is not None and marker["job"] != job:
            return False
        return all((path / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _usual_rights() -> int:
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    return 0o666 & ~umask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
