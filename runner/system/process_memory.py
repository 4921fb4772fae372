"""Memory of a process and all below it, from /proc."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def of_tree(pid: int) -> int:
    """Bytes that the tree under `pid` occupies, shared pages divided among their users.

    Processes that end meanwhile, or may not be read, count nothing.
    """
    parents = _parents()
    tree = [pid]
    for each in tree:
        tree.extend(child for child, parent in parents.items() if parent == each)
    return sum(_proportional(each) for each in tree)


def _parents() -> dict[int, int]:
    """Process id -> id of its parent."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        # The name in brackets may hold anything; state and parent follow the last bracket.
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def _proportional(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
