"""Run one script of runner/scripts as the executor does, without the executor around it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The settings of a plain preparing of rows, but for its files; tests change some.
PREPARING: dict[str, Any] = {
    "seed": 42,
    "system": None,
    "max_length": 512,
    "too_long": "error",
    "packing": False,
    "fraction": 0.0,
    "template": None,
    "validation": [],
}
SCRIPTS = Path(__file__).resolve().parent.parent / "runner" / "scripts"


@dataclass(frozen=True)
class ScriptRun:
    """What a script left behind."""

    returncode: int
    folder: Path
    events: list[dict[str, Any]]
    log: str

    @property
    def measures(self) -> dict[str, Any]:
        """All measures; the last value of a name wins."""
        found: dict[str, Any] = {}
        for event in self.events:
            if event["event"] == "measure":
                found |= event["values"]
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The error event. Raises IndexError, and shows the log, when there is none."""
        errors = [event for event in self.events if event["event"] == "error"]
        if not errors:
            print(self.log)
        return errors[-1]


def run_script(
    python: Path,
    name: str,
    hashed: Mapping[str, Any],
    inputs: Mapping[str, Path],
    folder: Path,
    **env: str,
) -> ScriptRun:
    """Run `runner/scripts/NAME` to its end. `folder` is made; scratch and events lie beside it."""
    out, scratch, events = folder / "out", folder / "scratch", folder / "events.jsonl"
    out.mkdir(parents=True)
    scratch.mkdir()
    where = {
        "inputs": {key: str(path) for key, path in inputs.items()},
        "folder": str(out),
        "scratch": str(scratch),
        "events": str(events),
    }
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"stage": name, "hashed": dict(hashed), "where": where}))
    result = subprocess.run(
        [str(python), str(SCRIPTS), name, str(spec)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = events.read_text().splitlines() if events.exists() else []
    return ScriptRun(
        result.returncode,
        out,
        [json.loads(line) for line in lines],
        result.stdout + result.stderr,
    )
