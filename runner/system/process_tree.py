"""A process and all below it, as /proc shows them: their memory, and what they listen on."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
_LISTENING = "0A"


def members(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents = _parents()
    tree = [pid]
    for each in tree:
        tree.extend(child for child, parent in parents.items() if parent == each)
    return tree


def memory(pid: int) -> int:
    """Bytes that the tree under `pid` occupies, shared pages divided among their users.

    Processes that end meanwhile, or may not be read, count nothing.
    """
    return sum(_proportional(each) for each in members(pid))


def started_at(pid: int) -> int | None:
    """When the process began, in ticks since the machine did; None when there is none.

    With its number it names one process, also when the number is given away again.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def listens(pid: int, port: int) -> bool:
    """Does a process of the tree listen on this TCP port (and not somebody else)?"""
    sockets = _listening_sockets(port)
    return any(_holds(each, sockets) for each in members(pid))


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


def _listening_sockets(port: int) -> set[str]:
    """The links that stand in /proc/PID/fd for sockets which listen on `port`, on any address."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            local, state, inode = fields[1], fields[3], fields[9]
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                found.add(f"socket:[{inode}]")
    return found


def _holds(pid: int, sockets: set[str]) -> bool:
    try:
        links = [str(fd.readlink()) for fd in (PROC / str(pid) / "fd").iterdir()]
    except OSError:
        return False
    return not sockets.isdisjoint(links)


def listener(port: int) -> str:
    """Who listens on this TCP port, as `process 12 (name)`; "" when it may not be seen."""
    sockets = _listening_sockets(port)
    for pid in sorted(_parents()) if sockets else ():
        if _holds(pid, sockets):
            return f"process {pid} ({_name(pid)})"
    return ""


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "ended"
