"""The file of one device's evidence: docs/evidence/DEVICE.json. Standard library only.

Nothing in it names the machine or the time. `sources` is a digest of what decides the numbers: the
plan's arithmetic, the scripts that train, and the measuring itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.store.atomic import write_atomic

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "evidence"
SCHEMA = 1
_SOURCES = (
    "benchmarks/gpu/*.py",
    "runner/plan/activations.py",
    "runner/plan/job.py",
    "runner/plan/memory.py",
    "runner/plan/optimizers.py",
    "runner/plan/phases.py",
    "runner/plan/shapes.py",
    "runner/plan/trained.py",
    "runner/scripts/evaluate.py",
    "runner/scripts/train_native.py",
    "runner/scripts/train_preference_native.py",
    "runner/scripts/training/**/*.py",
    "tests/gpu/*.py",
)


def path_of(device: str, folder: Path = FOLDER) -> Path:
    """The file of a device of this name: `NVIDIA GB10` -> nvidia-gb10.json."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return folder / f"{slug}.json"


def sources_digest(root: Path = ROOT) -> str:
    """Hex sha256 over names and contents, in the order of the names."""
    found = sorted({path for pattern in _SOURCES for path in root.glob(pattern)})
    whole = hashlib.sha256()
    for path in found:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def write(found: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write the evidence in place of the device's earlier one."""
    path = path_of(found["stack"]["device"]["name"], folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"schema": SCHEMA, **found}, indent=1) + "\n")
    return path


def read_all(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The evidence of every device, in the order of the file names. Raises ValueError for a file
    that is none."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} is no evidence of schema {SCHEMA}")
    return found
