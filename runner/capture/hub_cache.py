"""Which commit of a repository lies in the hub's own cache on this machine. No network."""

from __future__ import annotations

import os
import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def cached_commit(name: str, revision: str) -> str | None:
    """The commit that `revision` of repository `name` is here; None when that is not known."""
    if _COMMIT.fullmatch(revision):
        return revision
    if _BRANCH.fullmatch(revision) is None:  # a stranger's name is no way to another file
        return None
    try:
        text = (_repository(name) / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def cached_snapshot(name: str, commit: str) -> Path:
    """Where the files of that commit lie, if they do."""
    return _repository(name) / "snapshots" / commit


def _repository(name: str) -> Path:
    cache = Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub")
    return cache / f"models--{name.replace('/', '--')}"


def _home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
