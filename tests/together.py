"""Several processes of one training in forks of warm interpreters, as torchrun would start them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.training_runs import Finished, Fork, ScriptRun, WarmInterpreter


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_together(run: ScriptRun, interpreters: Sequence[WarmInterpreter]) -> list[Fork]:
    """Start one process of `run` in each interpreter."""
    size, port = len(interpreters), str(free_port())
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        run.start(
            interpreter, **shared, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size)
        )
        for rank, interpreter in enumerate(interpreters)
    ]


def finish_together(run: ScriptRun, interpreters: Sequence[WarmInterpreter]) -> Finished:
    """Run all processes to their end; the status is the worst of them."""
    forks = start_together(run, interpreters)
    return run.result(max(abs(fork.wait()) for fork in forks))


def kill_together(forks: Sequence[Fork], number: int) -> None:
    """As a power cut would: all at once. Returns when they are gone."""
    for fork in forks:
        with contextlib.suppress(ProcessLookupError):
            fork.send_signal(number)
    for fork in forks:
        fork.wait()


def process_ids(parent: int, word: str) -> list[int]:
    """Of all processes below `parent` with `word` in their command line, oldest first."""
    found: list[int] = []
    children = [parent]
    while children:
        below = _children(children.pop())
        children += below
        found += [pid for pid in below if word in _command(pid)]
    return sorted(found)


def _children(parent: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{parent}/task").iterdir())
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> list[str]:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        return []


def settings_of_lora(**changes: Any) -> dict[str, Any]:
    """An adapter on all linear layers."""
    lora = {"type": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
    return {**lora, "target_modules": "all-linear", **changes}
