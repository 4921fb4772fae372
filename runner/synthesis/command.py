"""One run of a synthesis: lock, log, server, rows, output. What `recipe data synthesize` does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.asking import servers
from runner.asking.asker import Asker, NotInTheLog, Tally
from runner.asking.http import Address
from runner.asking.log import Log, log_path
from runner.asking.settings import Endpoint
from runner.errors import UsageError
from runner.store.atomic import write_as_told
from runner.store.locks import Lock
from runner.synthesis.kinds import Material
from runner.synthesis.settings import Settings
from runner.synthesis.synthesize import Result, synthesize
from runner.system import folders


@dataclass(frozen=True, slots=True)
class Finished:
    """What came out, and what it cost; `logged` is how many answers the log now has."""

    result: Result
    tally: Tally
    log: Path
    logged: int


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of what goes on: words, and how many rows there are."""

    say: servers.Say
    progress: Callable[[int], None]


def check_output(out: Path, *, force: bool) -> None:
    """Raises UsageError (E900). A file with a log beside it is ours, and made again."""
    if out.suffix != ".jsonl" or out.name.endswith(log_path(Path("x.jsonl")).name[1:]):
        raise UsageError(
            f"{out} is not named as a file of rows",
            hint="rows are written as JSON lines: -o rows.jsonl",
            code="E900",
        )
    if out.is_dir():
        raise UsageError(
            f"{out} is a folder, not a file",
            hint=f"name a file in it: -o {out / 'rows.jsonl'}",
            code="E900",
        )
    if out.exists() and not log_path(out).exists() and not force:
        raise UsageError(
            f"{out} exists, and no log of requests lies beside it",
            hint="write --force to replace it, or another name",
            code="E900",
        )


def run(
    settings: Settings, material: Material, out: Path, told: Told, *, offline: bool
) -> Finished:
    """Make the rows and write them to `out`, as a whole or not at all. Raises RecipeToolError.

    The log alone is tried first: what it holds needs neither a server nor a key.
    """
    name = hashlib.sha256(str(out.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = folders.cache_folder() / "locks" / f"synthesis-{name}.lock"
    path = log_path(out)
    with Lock(lock, str(out), wait=False), Log(path, read_only=offline) as log:
        finished = _from_the_log(settings, material, log, told, offline=offline)
        if finished is None:
            with servers.addresses(settings, told.say) as addresses:
                finished = _made(settings, material, log, addresses, told)
        write_as_told(out, _as_lines(finished.result))
    return finished


def _from_the_log(
    settings: Settings, material: Material, log: Log, told: Told, *, offline: bool
) -> Finished | None:
    if not len(log) and not offline:
        return None
    try:
        quiet = Told(lambda message: None, lambda rows: None)
        return _made(settings, material, log, None, quiet)
    except NotInTheLog:
        if offline:
            raise
        told.say(f"{len(log)} answers are in {log.path} and are not asked for again")
        return None


def _made(
    settings: Settings,
    material: Material,
    log: Log,
    addresses: Mapping[Endpoint, Address] | None,
    told: Told,
) -> Finished:
    stopping = threading.Event()
    asker = Asker(settings, log, addresses, stopping)

    def waiting(requests: int) -> None:
        told.say(f"waiting for what is under way ({requests}), which is kept; Ctrl-C leaves it")

    fresh = Material(material.seeds, material.parts)
    result = synthesize(settings, fresh, asker, stopping, told.progress, waiting)
    return Finished(result, asker.tally, log.path, len(log))


def _as_lines(result: Result) -> bytes:
    rows = (json.dumps(row, ensure_ascii=False) for row in result.rows)
    return "".join(f"{row}\n" for row in rows).encode()
