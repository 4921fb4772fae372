"""A disk that is really full while rows are prepared: it is said, and nothing half made is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chain import ROOT
from tests.script_runs import PREPARING, SCRIPTS

ROWS = 600  # in chunks, so that other processes make them into tokens
# One process of one thread, which a mount namespace of its own asks for.
ON_A_SMALL_DISK = """
import json, subprocess, sys
from pathlib import Path
from tests.small_disk import SmallDisk

folder, pages, *command = sys.argv[1:]
disk = SmallDisk(Path(folder), int(pages) * 4096)
told = []
for size in (None, 1 << 28):
    if size is not None:
        disk.resize(size)
    done = subprocess.run(command, capture_output=True, text=True)
    left = sorted(path.name for path in Path(folder).iterdir())
    told.append({"status": done.returncode, "log": done.stderr, "left": left})
print(json.dumps(told))
"""


@pytest.mark.parametrize(
    ("full", "pages", "processes"),
    [
        ("scratch", 1, 1),  # before the first row
        ("scratch", 40, 1),  # while they wait
        ("scratch", 40, 2),
        ("out", 40, 2),  # at the end, when the outputs are written
    ],
)
def test_a_full_disk_is_told_of_and_the_next_try_succeeds(
    environment_python: Callable[[str], Path],
    tiny: Path,
    tmp_path: Path,
    full: str,
    pages: int,
    processes: int,
) -> None:
    spec = job(tmp_path, tiny)
    python = environment_python("data")
    done = subprocess.run(
        [
            *(sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / full), str(pages)),
            *(str(python), str(SCRIPTS), "prepare", str(spec)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(processes), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads(done.stdout)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    errors = [each for each in events if each["event"] == "error"]
    assert [each["code"] for each in errors] == ["E366"]
    assert "the disk is full: No space left on device" in errors[0]["message"]
    assert first["status"] == 1
    assert "Traceback" not in first["log"]
    assert second["status"] == 0, second["log"][-3000:]
    if full == "scratch":
        assert first["left"] == second["left"] == []
    else:
        assert "train.tokens.safetensors" in second["left"]
    (counted,) = (each["values"] for each in events if each["event"] == "measure")
    assert counted["train"]["rows"] == ROWS


def job(place: Path, model: Path) -> Path:
    """The spec of a preparing, in folders below `place`."""
    for folder in ("out", "scratch"):
        (place / folder).mkdir()
    rows = [{"instruction": f"{n}?", "output": f"{n} " + "word " * 80} for n in range(ROWS)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = {
        "inputs": {"model": str(model), "train-0": str(place / "rows.jsonl")},
        "folder": str(place / "out"),
        "scratch": str(place / "scratch"),
        "events": str(place / "events.jsonl"),
    }
    train = [{"name": "rows.jsonl", "format": "alpaca", "input": "train-0"}]
    hashed = PREPARING | {"train": train, "max_length": 1 << 16}
    spec = place / "spec.json"
    spec.write_text(json.dumps({"stage": "prepare", "hashed": hashed, "where": where}))
    return spec
