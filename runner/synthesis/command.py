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
from runner.store.locks import Lock
from runner.synthesis import output
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


def run(
    settings: Settings, material: Material, out: Path, told: Told, *, offline: bool, force: bool
) -> Finished:
    """Make the rows and write them to `out`, as a whole or not at all. Raises RecipeToolError.

    The log alone is tried first: what it holds needs neither a server nor a key. Without `force`
    nobody is asked while something else is at `out` than was written there last.
    """
    name = hashlib.sha256(str(out.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = folders.cache_folder() / "locks" / f"synthesis-{name}.lock"
    path = log_path(out)
    with Lock(lock, str(out), wait=False):
        replaced = force or output.may_be_replaced(out)
        with Log(path, read_only=offline or not (replaced or path.exists())) as log:
            finished = _from_the_log(settings, material, log, told, offline=offline)
            if not replaced:
                output.check_same(out, _as_lines(finished.result) if finished else None)
            if finished is None:
                with servers.addresses(settings, told.say) as addresses:
                    finished = _made(settings, material, log, addresses, told)
            output.write(out, _as_lines(finished.result))
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

    fresh = Material(material.seeds, material.parts)
    result = synthesize(settings, fresh, asker, stopping, told.progress, told.say)
    return Finished(result, asker.tally, log.path, len(log))


def _as_lines(result: Result) -> bytes:
    rows = (json.dumps(row, ensure_ascii=False) for row in result.rows)
    return "".join(f"{row}\n" for row in rows).encode()
