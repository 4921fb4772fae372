"""Start a script several times, as the processes of one training, and end all when one ends.

`start_processes spec.json`: as torchrun does, through PyTorch's own launcher. The spec's
`where.processes` says which `script`, how many on this machine (`local`), which machine this is of
how many (`machine`, `machines`), and at which address and port the first one waits. When one ends
badly the others are ended, and an event says which it was, unless it has said so itself: E377, or
E500 where its own log has to be read.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from runner.scripts.spec import Events, load_spec

_ENDED_BY_OTHERS = (signal.SIGABRT, signal.SIGTERM)
MEET_SECONDS = 600  # machines that agreed to begin have long read their packages by then


def main() -> None:
    """Exit code 1 when a process failed."""
    path = sys.argv[1]
    spec, events = load_spec(path)
    wanted = json.loads(Path(path).read_text(encoding="utf-8"))["where"]["processes"]
    begin = spec.events.stat().st_size
    program = [str(Path(__file__).parent), wanted["script"], path]
    try:
        elastic_launch(_configuration(wanted), sys.executable)("-u", *program)
    except ChildFailedError as error:
        rank, failure = _cause(error)
        if not _has_spoken(spec.events, begin):
            _say(events, rank, failure, wanted)
        raise SystemExit(1) from None


def _configuration(wanted: dict[str, Any]) -> LaunchConfig:
    """One attempt: what failed goes on from its checkpoint when the recipe is run again."""
    machines = wanted["machines"]
    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0"}
    if machines > 1:
        meeting = {
            "rdzv_backend": "static",
            "rdzv_endpoint": f"{wanted['address']}:{wanted['port']}",
            "rdzv_configs": {"rank": wanted["machine"], "timeout": MEET_SECONDS},
        }
    return LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=wanted["local"],
        run_id="recipe",
        max_restarts=0,
        monitor_interval=0.1,
        local_addr=wanted.get("own_address", "127.0.0.1"),
        shutdown_timeout=5,
        **meeting,
    )


def _cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """The process that was lost, where one was: another may have failed for want of it before the
    launcher looked again. Else the one that failed first."""
    for rank, failure in sorted(error.failures.items()):
        if failure.exitcode < 0 and -failure.exitcode not in _ENDED_BY_OTHERS:
            return rank, failure
    return error.get_first_failure()


def _has_spoken(events: Path, begin: int) -> bool:
    """Has one of the processes said why it failed?"""
    with events.open("rb") as file:
        file.seek(begin)
        lines = file.read().split(b"\n")[:-1]
    return any(json.loads(line)["event"] == "error" for line in lines)


def _say(events: Events, rank: int, failure: ProcessFailure, wanted: dict[str, Any]) -> None:
    how = f"exited with status {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was killed by {failure.signal_name()}"
    # These are also how a process ends when another machine's is lost to it.
    unclear = failure.exitcode > 0 or failure.exitcode == -signal.SIGABRT
    total = wanted["local"] * wanted["machines"]
    place = f" on machine {wanted['machine'] + 1}" if wanted["machines"] > 1 else ""
    events.fail(
        f"process {rank} of {total}{place} {how}; the others were ended",
        hint="read the log, then run the same command again: the training goes on from its last "
        "checkpoint",
        code="E500" if unclear else "E377",
    )


if __name__ == "__main__":
    main()
