"""Sign documents and check signatures, in the environment `sign`.

Keys stay where they are: the script reads them, and nothing is copied but the document.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.errors import NotReproduced, RecipeToolError, StageFailed, UsageError
from runner.execution.context import SCRIPTS
from runner.execution.events import read_events
from runner.store.atomic import disk_errors
from runner.system import environments, process
from runner.system.folders import cache_folder

ROLE = "sign"


def signed(document: bytes, payload_type: str, key: Path) -> bytes:
    """A DSSE envelope with `document` in it. Raises UsageError (E843, E844) or MachineCannot."""
    with _folder() as folder:
        payload = folder / "payload.json"
        payload.write_bytes(document)
        inputs = {"payload": payload, "key": key.absolute()}
        _run("sign_envelope", {"payload_type": payload_type}, inputs, folder)
        return (folder / "out" / "envelope.json").read_bytes()


def checked(envelope: Path, key: Path) -> tuple[bytes, str]:
    """The document in a signed envelope, and its media type.

    Raises NotReproduced (E848) when `key` did not sign it, UsageError (E843: no public key; E846:
    no envelope) or MachineCannot.
    """
    with _folder() as folder:
        inputs = {"envelope": envelope.absolute(), "key": key.absolute()}
        measured = _run("check_envelope", {}, inputs, folder)
        return (folder / "out" / "payload").read_bytes(), str(measured["payload_type"])


@contextmanager
def _folder() -> Iterator[Path]:
    cache = cache_folder()
    with disk_errors("signing or checking a signature", cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="sign-", dir=cache) as name:
            (Path(name) / "out").mkdir()
            yield Path(name)


def _run(
    script: str, hashed: Mapping[str, Any], inputs: Mapping[str, Path], folder: Path
) -> dict[str, Any]:
    """Run a script of the environment and return what it measured."""
    python = environments.ensure(ROLE, cache_folder(), _say).python
    events, log = folder / "events.jsonl", folder / "log"
    where = {
        "inputs": {name: str(path) for name, path in inputs.items()},
        "folder": str(folder / "out"),
        "scratch": str(folder),
        "events": str(events),
    }
    spec = {"stage": script, "hashed": dict(hashed), "where": where}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    result = process.run_child(
        [str(python), str(SCRIPTS), script, str(folder / "spec.json")],
        env=process.child_env({"PYTHONPYCACHEPREFIX": str(cache_folder() / "pycache")}),
        cwd=folder,
        stdout=log,
        stderr=log,
    )
    said = read_events(events)[0] if events.is_file() else []
    if not result.ok:
        raise _failure(script, said, f"{process.describe_exit(result)}\n{process.tail(log, 6)}")
    return {name: value for event in said for name, value in event.get("values", {}).items()}


def _failure(script: str, said: list[dict[str, Any]], how: str) -> RecipeToolError:
    """The script's own words, with the exit code of what they mean."""
    for event in said:
        if event["event"] == "error":
            kind = NotReproduced if event["code"] == "E848" else UsageError
            return kind(event["message"], hint=event["hint"], code=event["code"])
    return StageFailed(f"{script} failed: {how}", hint="run the same command again")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
