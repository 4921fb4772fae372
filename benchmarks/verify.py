"""`recipe verify`, level files, beside `openssl dgst -sha256` on the same files.

usage: .venv/bin/python -m benchmarks.verify [RUNS] [MEGABYTES]

One large file, then the same bytes in several files, which openssl hashes as many at once as there
are processors. The runs are made on the spot and have nothing in the store, so both read the same
bytes; the warm-up leaves them in memory, so the hashing is measured and not the disk. Start-up is
measured on files of no size and taken off for the rates below each table: it does not grow with
the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Command, Timing, table, time_side_by_side
from runner.store.digest import file_sha256

FILES = (1, 4)
MEGABYTE = 1 << 20
OPENSSL = ["openssl", "dgst", "-sha256"]


def main(runs: int, megabytes: int) -> None:
    """Print a table for one file and one for several, each with the rates."""
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        for count in FILES:
            timings = measure(runs, megabytes, count, Path(name) / str(count))
            print(f"{count} file(s), {megabytes} MB together, {runs} runs each\n")
            print(f"{table(timings)}\n\n{rates(timings, megabytes)}\n", flush=True)


def measure(runs: int, megabytes: int, count: int, place: Path) -> list[Timing]:
    """Verify and openssl on empty files, then on `count` files of `megabytes` together."""
    sizes = {"nothing": 0, f"{megabytes} MB": megabytes * MEGABYTE}
    commands = []
    for words, size in sizes.items():
        run = write_run(place / f"run-{size}", size // count, count)
        commands += [ours(run, words), peer(run, words)]
    return time_side_by_side(commands, runs)


def ours(run: Path, words: str) -> Command:
    """The command as a user types it, with a store of its own that holds nothing."""
    recipe = Path(sys.executable).with_name("recipe")
    env = {"SPARK_RECIPES_STORE": str(run / "no-store")}
    return Command(f"recipe verify, {words}", [str(recipe), "verify", str(run)], env)


def peer(run: Path, words: str) -> Command:
    """One openssl for each file, as many at once as there are processors."""
    files = [str(path) for path in weights(run)]
    if len(files) == 1:
        return Command(f"openssl dgst -sha256, {words}", [*OPENSSL, *files])
    at_once = f"printf '%s\\0' \"$@\" | xargs -0 -n 1 -P {os.cpu_count()} {' '.join(OPENSSL)}"
    return Command(f"openssl dgst -sha256, {words}", ["sh", "-c", at_once, "sh", *files])


def rates(timings: list[Timing], megabytes: int) -> str:
    """Megabytes a second without the start-up, and their ratio: above 0.9 is the goal."""
    start, peer_start, full, peer_full = (each.median for each in timings)
    rate, peer_rate = megabytes / (full - start), megabytes / (peer_full - peer_start)
    return (
        f"without the start-up: recipe verify {rate:.0f} MB/s, openssl {peer_rate:.0f} MB/s, "
        f"ratio {rate / peer_rate:.2f}"
    )


def write_run(folder: Path, size: int, count: int) -> Path:
    """A finished run of one stage: `count` files of `size` bytes each."""
    model = folder / "merged" / "model"
    model.mkdir(parents=True)
    block = random.Random(0).randbytes(min(size, 16 * MEGABYTE))
    files = {}
    for number in range(1, count + 1):
        path = model / f"model-{number:05}-of-{count:05}.safetensors"
        with path.open("wb") as file:
            for start in range(0, size, len(block) or 1):
                file.write(block[: size - start])
        facts = {"size": size, "sha256": file_sha256(path), "class": "portable"}
        files[f"model/{path.name}"] = facts
    manifest = json.dumps({"schema": 1, "stages": {"merge": files}}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    record = {
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "stages": [{"name": "merge", "key": "0" * 64, "measures": {}}],
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def weights(run: Path) -> list[Path]:
    """The run's files, in order."""
    return sorted((run / "merged" / "model").glob("*.safetensors"))


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 5, numbers[1] if len(numbers) > 1 else 4096)
