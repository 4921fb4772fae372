"""Variables of ours that are set for a whole machine: what a run would refuse, or pass over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from runner.doctor.check import Check, State, ok
from runner.errors import UsageError
from runner.execution.lacks import gb
from runner.scripts.data.chunks.workers import ADDRESS, is_address
from runner.system import memory_limit
from runner.system.folders import PREBUILT


def settings() -> Iterator[Check]:
    """One check of each that is set. Those of cache, store and Python have checks of their own."""
    if os.environ.get(memory_limit.SETTING, "").strip():
        yield _memory_limit()
    if cluster := os.environ.get(ADDRESS, "").strip():
        yield _cluster(cluster)
    if prebuilt := os.environ.get(PREBUILT):
        yield _prebuilt(prebuilt)


def _memory_limit() -> Check:
    name = memory_limit.SETTING
    try:
        return ok(name, f"a training may use {gb(memory_limit.asked())}")
    except UsageError as error:
        why = "every run ends with E962"
        return Check(name, State.PROBLEM, error.message, why, f"{error.hint}; or: unset {name}")


def _cluster(address: str) -> Check:
    if is_address(address):
        return ok(ADDRESS, f"rows are prepared by the Ray cluster at {address}")
    return Check(
        ADDRESS,
        State.PROBLEM,
        f"{address[:80]!r} is not HOST:PORT",
        "every run that prepares rows ends with E372",
        f"export {ADDRESS}=HOST:6379, or: unset {ADDRESS}",
    )


def _prebuilt(folder: str) -> Check:
    if Path(folder).is_dir():
        return ok(PREBUILT, folder)
    return Check(
        PREBUILT,
        State.WARNING,
        f"there is no folder {folder}",
        "environments and tools are not found there, and a run builds them anew in the cache",
        f"set it to the folder that holds them, or: unset {PREBUILT}",
    )
