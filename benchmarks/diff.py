"""`recipe diff` of two runs of a model of many weights, beside comparing the files as a whole.

usage: .venv/bin/python -m benchmarks.diff [RUNS] [MILLIONS OF WEIGHTS]

Two finished runs are made on the spot: merged weights in float16 that are equal up to the last
tensor, where one element differs; then the same where every element does. The peer loads both
files with safetensors and compares array by array, as one would in a notebook. `cmp`, which only
finds the first byte, shows what reading costs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.timing import Command, table, time_side_by_side
from runner.scripts.weights.safetensors_stream import TensorSpec, open_shards, row_blocks

WIDTH = 2048
ROWS = 8192
MODEL = "model/model.safetensors"
NOTEBOOK = """
import sys
import numpy as np
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as a, safe_open(sys.argv[2], "np") as b:
    first = {name: a.get_tensor(name) for name in a.keys()}
    second = {name: b.get_tensor(name) for name in b.keys()}
print([name for name in first if not np.array_equal(first[name], second[name])])
"""
# A comparison that finds a difference ends with another code than 0.
EXPECTED = 'status=$1; shift; "$@"; [ $? -eq "$status" ]'


def main(runs: int, millions: int) -> None:
    """Print a table for one element that differs, and one for all of them."""
    with tempfile.TemporaryDirectory(prefix="diff-") as name:
        place = Path(name)
        first = write_run(place / "first", millions, seed=0)
        for words, seed in (("the last element differs", None), ("all elements differ", 1)):
            second = write_run(place / words.replace(" ", "-"), millions, seed=seed)
            print(f"{millions} million weights, {words}, {runs} runs each\n")
            print(table(time_side_by_side(commands(first, second), runs)) + "\n", flush=True)


def commands(first: Path, second: Path) -> list[Command]:
    """Ours, the notebook's way, and cmp."""
    python = Path(sys.executable)
    files = [str(run / "merged" / MODEL) for run in (first, second)]
    ours = [str(python.with_name("recipe")), "diff", str(first), str(second)]
    env = {"SPARK_RECIPES_STORE": str(first / "no-store")}
    return [
        Command("recipe diff", expecting(7, ours), env),
        Command("cmp", expecting(1, ["cmp", *files])),
        Command("safetensors + numpy", [str(python), "-c", NOTEBOOK, *files]),
    ]


def expecting(status: int, argv: list[str]) -> list[str]:
    """The command; it fails when it ends with another status."""
    return ["sh", "-c", EXPECTED, "sh", str(status), *argv]


def write_run(folder: Path, millions: int, seed: int | None) -> Path:
    """A finished run of one stage. Without a seed: that of seed 0 but for the last element."""
    folder.mkdir(parents=True)
    path = folder / "merged" / MODEL
    path.parent.mkdir(parents=True)
    count = max(1, millions * 1_000_000 // (WIDTH * ROWS))
    specs = [TensorSpec(f"layers.{n}.weight", "F16", (ROWS, WIDTH)) for n in range(count)]
    generator = np.random.default_rng(seed or 0)
    with open_shards(path.parent, specs, max_bytes=1 << 50) as writer:
        for spec in specs:
            for first, last in row_blocks(spec, 8 << 20):
                values = generator.standard_normal((last - first, WIDTH), np.float32)
                writer.write(spec.name, values.astype(np.float16))
    if seed is None:
        with path.open("r+b") as file:
            file.seek(-2, 2)
            file.write(np.float16(3).tobytes())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {"size": path.stat().st_size, "sha256": digest, "class": "portable"}
    manifest = {"schema": 1, "stages": {"merge": {MODEL: facts}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stage = {"name": "merge", "key": "0" * 64, "material": {"stage": "merge"}, "measures": {}}
    (folder / "run.json").write_text(json.dumps({"stages": [stage]}))
    return folder


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 3, numbers[1] if len(numbers) > 1 else 1000)
