"""A cgroup for one child tree: what takes more memory than it may dies, and not the machine.

Where GPU and processor share the memory, a machine without any stands still until it is switched
off. A group can be made by root, and where systemd has given the user a tree of his own; elsewhere
`COMMAND` does it for the whole runner.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import UsageError
from runner.system import hardware
from runner.system.hardware import ROOT, cgroup_folders

SETTING = "SPARK_RECIPES_MEMORY_LIMIT"  # bytes, or as 110GB
COMMAND = "systemd-run --user --scope -p MemoryMax=90% -p MemorySwapMax=0 recipe run x.yaml"
_USABLE = 0.92  # of the machine's memory: the rest is the system's
_NAME = "spark-recipes-"
_PATIENCE = 50  # tries to remove a group whose last process has just ended
_UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup that waits for its processes. `procs`: a process joins by writing 0 to it."""

    folder: Path

    @property
    def procs(self) -> Path:
        """The file that takes process ids."""
        return self.folder / "cgroup.procs"

    def oom_kills(self) -> int:
        """Processes of the group that the kernel has killed for memory."""
        for name in ("memory.events", "memory.oom_control"):  # v2, v1
            try:
                lines = (self.folder / name).read_text().splitlines()
            except OSError:
                continue
            return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return 0


def asked() -> int:
    """Bytes of the machine's own setting, 0 without one. Raises UsageError E962."""
    text = os.environ.get(SETTING, "").strip()
    number = text.rstrip("BGIMbgim").strip()
    unit = text[len(number) :].strip().upper()
    if not text:
        return 0
    try:
        size = int(float(number) * _UNITS[unit])
        if size < 1 << 20:
            raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise UsageError(
            f"{SETTING} is no size of memory: {text[:40]}",
            hint="give bytes, or a number with MB, GB, MiB or GiB: 110GB",
            code="E962",
        ) from None
    return size


def for_large_load(root: Path = ROOT) -> int:
    """Bytes that a job which loads much may use; 0 where a cgroup limits this process already."""
    whole = hardware.meminfo(root)["MemTotal"]
    return 0 if hardware.memory(root).total < whole else int(_USABLE * whole)


@contextlib.contextmanager
def group(limit: int, root: Path = ROOT) -> Iterator[Group | None]:
    """A new cgroup of at most `limit` bytes, without swap; None where this user may make none.

    It is removed at the end, when its processes are gone.
    """
    made = _make(limit, root)
    try:
        yield made
    finally:
        if made is not None:
            _remove(made.folder)


def _make(limit: int, root: Path) -> Group | None:
    parent = _parent(root)
    if parent is None:
        return None
    _remove_empty(parent)
    folder = parent / f"{_NAME}{os.getpid()}-{time.monotonic_ns()}"
    v2 = (parent / "cgroup.controllers").exists()
    # Of v1 memsw counts swap too, and must not be less than the other.
    needed, wished = ("memory.max", {"memory.swap.max": "0", "memory.oom.group": "1"})
    if not v2:
        needed, wished = ("memory.limit_in_bytes", {"memory.memsw.limit_in_bytes": str(limit)})
    try:
        folder.mkdir()
        (folder / needed).write_text(str(limit))
    except OSError:
        _remove(folder)
        return None
    for name, value in wished.items():
        with contextlib.suppress(OSError):  # a kernel without the accounting of swap
            if (folder / name).exists():
                (folder / name).write_text(value)
    return Group(folder)


def _parent(root: Path) -> Path | None:
    """Where a group for our children can be made: in v1 below our own group, in v2 beside it.

    A group of v2 that has processes gives no controllers to groups below it.
    """
    own = next(cgroup_folders(root, "memory"), None)
    if own is None:
        return None
    if not (own / "cgroup.controllers").exists():
        return own if os.access(own, os.W_OK) else None
    beside = own.parent if (own.parent / "cgroup.controllers").exists() else own
    try:
        given = (beside / "cgroup.subtree_control").read_text().split()
    except OSError:
        return None
    free = os.access(beside, os.W_OK) and os.access(beside / "cgroup.procs", os.W_OK)
    return beside if free and "memory" in given else None


def _remove_empty(parent: Path) -> None:
    """Groups of runners that were killed."""
    for folder in parent.glob(f"{_NAME}*"):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _remove(folder: Path) -> None:
    for _ in range(_PATIENCE):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
