"""Memory, its limits and its holders, swap and clock: what the kernel says.

Every check takes the `root` it reads below, so that tests can show it other machines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from runner.doctor.check import Check, State, ok
from runner.execution.lacks import gb
from runner.execution.preflight import DROP_CACHES
from runner.system import hardware
from runner.system.memory_limit import COMMAND, SETTING

SHORT = 0.5  # of the memory: less than this part available is worth a word
HOLDS = 1_000_000_000  # bytes from which a process is named
NAMED = 4  # processes
_OLDEST = 1_767_225_600  # 2026-01-01, seconds since 1970: no release is older


def memory(root: Path, *, unified: bool) -> Iterator[Check]:
    """What can be had now. `unified`: a GPU takes it from there too, page cache not given back."""
    have, facts = hardware.memory(root), hardware.meminfo(root)
    found = f"{gb(have.available)} of {gb(have.total)} can be had now"
    if have.available >= SHORT * have.total:
        yield ok("memory", found)
    else:
        holders = "; ".join(f"{name} (pid {pid}) has {gb(size)}" for pid, name, size in held(root))
        yield Check(
            "memory",
            State.WARNING,
            f"{found}; {holders or 'no single process holds much of it'}",
            "the kernel ends the largest process when there is none left",
            "end what is not needed, such as a model that Ollama keeps: ollama stop NAME",
        )
    cached = facts.get("Cached", 0)
    if unified and cached > facts["MemFree"]:
        yield Check(
            "page cache",
            State.NOTE,
            f"{gb(cached)} of files are kept in memory, {gb(facts['MemFree'])} are free",
            "GPU and processor share the memory, and CUDA counts only what is free",
            DROP_CACHES,
        )


def held(root: Path) -> list[tuple[int, str, int]]:
    """Process id, name and bytes in memory of the largest processes, largest first."""
    found = []
    for status in (root / "proc").glob("[0-9]*/status"):
        facts = _facts_of(status)
        size = int(facts.get("VmRSS", "0 kB").split()[0]) * 1024
        if size >= HOLDS:
            found.append((int(status.parent.name), facts.get("Name", "?"), size))
    return sorted(found, key=lambda each: (-each[2], each[0]))[:NAMED]


def _facts_of(status: Path) -> dict[str, str]:
    try:
        lines = status.read_text(errors="replace").splitlines()
    except OSError:  # it has ended
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def swap(root: Path) -> Check:
    """Swap in use makes a training crawl; a machine without any ends it sooner."""
    facts = hardware.meminfo(root)
    total, free = facts.get("SwapTotal", 0), facts.get("SwapFree", 0)
    if total == 0:
        return ok("swap", "none: a training that is too large ends at once")
    used = total - free
    if used <= total // 10:
        return ok("swap", f"{gb(total)}, of which {gb(used)} are in use")
    return Check(
        "swap",
        State.WARNING,
        f"{gb(used)} of {gb(total)} are in use",
        "weights that lie on the disk make a training a hundred times slower, or hang the machine",
        "sudo swapoff -a && sudo swapon -a, when as much memory is free",
    )


def limit(root: Path) -> Check:
    """The limit of a container or a service, within which a job dies and not the machine."""
    whole, mine = hardware.meminfo(root)["MemTotal"], hardware.memory(root).total
    if mine < whole:
        return ok("memory limit", f"a cgroup allows {gb(mine)} of the machine's {gb(whole)}")
    return Check(
        "memory limit",
        State.NOTE,
        f"no cgroup limits this process: it may use all {gb(whole)}; a load of 8 GB or more gets "
        "one of its own where this user may make one",
        "a training that needs more than there is can take the whole machine down",
        f"{COMMAND}; {SETTING}=110GB says how much",
    )


def clock(now: float | None = None) -> Check:
    """A clock that is far behind makes every certificate invalid, and downloads fail."""
    seconds = time.time() if now is None else now
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    if seconds >= _OLDEST:
        return ok("clock", day)
    return Check(
        "clock",
        State.PROBLEM,
        f"it says {day}, before this program was written",
        "certificates of the hub and of the package index are not valid yet",
        "sudo timedatectl set-ntp true",
    )
