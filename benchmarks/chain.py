"""The quickstart without its one-time set-up, a second run, and what the runner adds to training.

usage: .venv/bin/python -m benchmarks.chain

What the runner adds does not grow with the steps, so it is measured on short trainings, side by
side in turn: the `train` stage as the user waits for it, and the same script started by hand with
the spec that the run wrote (the bare training script). The difference is then held against the
quickstart's own training. CPU time is told too: a shared machine disturbs it less than the clock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.execution.context import SCRIPTS
from runner.system import environments
from runner.system.folders import cache_folder
from tests.chain import Checkout, copy_checkout

RECIPE = "recipes/quickstart.yaml"
PAIRS = 5
SHORT = 4  # steps of the trainings that are compared


def main() -> None:
    """Print the results as Markdown."""
    with tempfile.TemporaryDirectory(prefix="chain-") as name:
        place = Path(name)
        checkout = copy_checkout(
            place / "checkout", cache=cache_folder(), store=place / "store", home=place / "home"
        )
        first = timed(checkout, "run", RECIPE)
        again = [timed(checkout, "run", RECIPE) for _ in range(5)]
        seconds = stage_seconds(checkout, "quickstart")
        pairs = [pair(checkout, place / f"pair-{number}", number) for number in range(PAIRS)]
    print(f"quickstart, tools and environments in the cache: {first:.1f} s")
    print("by stage: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))
    print(f"second run: min {min(again):.2f} s, max {max(again):.2f} s")
    for kind in ("clock", "cpu"):
        staged, bare = ([each[n][kind] for each in pairs] for n in (0, 1))
        added = statistics.median(a - b for a, b in zip(staged, bare, strict=True))
        print(
            f"{SHORT} steps, {kind}: stage median {statistics.median(staged):.2f} s, bare script "
            f"median {statistics.median(bare):.2f} s; the runner adds {added:+.2f} s (median of "
            f"{PAIRS} pairs), {100 * added / seconds['train']:+.2f} % of the quickstart's training"
        )


def stage_seconds(checkout: Checkout, name: str) -> dict[str, float]:
    """Seconds of each stage of the newest run."""
    record = json.loads((latest(checkout, name) / "run.json").read_text())
    return {stage["name"]: stage["seconds"] for stage in record["stages"]}


def latest(checkout: Checkout, name: str) -> Path:
    """Folder of the newest run of a recipe."""
    return (checkout.folder / "runs" / name / "latest").resolve()


def pair(checkout: Checkout, folder: Path, number: int) -> tuple[dict[str, float], ...]:
    """Clock and CPU seconds of one short training by the runner, and of the bare script.

    The CPU time of the first is that of the whole command, its planning included.
    """
    text = (checkout.folder / RECIPE).read_text()
    text = re.sub(r"(?m)^seed: \d+", f"seed: {1000 + number}", text)
    text = re.sub(r"max_steps: \d+", f"max_steps: {SHORT}", text)
    recipe = checkout.folder / "recipes" / "short.yaml"
    recipe.write_text(re.sub(r"(?m)^name: .*", "name: short", text))
    before = cpu_seconds()
    timed(checkout, "run", str(recipe), "--until", "train")
    staged = {"clock": stage_seconds(checkout, "short")["train"], "cpu": cpu_seconds() - before}
    before = cpu_seconds()
    clock = bare_training(checkout, latest(checkout, "short"), folder)
    return staged, {"clock": clock, "cpu": cpu_seconds() - before}


def cpu_seconds() -> float:
    """User and system time of all children that have ended so far, with theirs."""
    times = os.times()
    return times.children_user + times.children_system


def timed(checkout: Checkout, *arguments: str) -> float:
    """Wall-clock seconds of one command. Raises when it fails."""
    started = time.perf_counter()
    result = checkout.recipe(*arguments)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return time.perf_counter() - started


def bare_training(checkout: Checkout, run: Path, folder: Path) -> float:
    """Run the training script by hand, from the spec that the run wrote."""
    written = next((run / "logs").glob("train-*.spec.json"))
    spec = json.loads(written.read_text())
    for part in ("out", "scratch"):
        (folder / part).mkdir(parents=True)
    spec["where"] |= {
        "folder": str(folder / "out"),
        "scratch": str(folder / "scratch"),
        "events": str(folder / "events.jsonl"),
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    python = environments.ensure("native", cache_folder(), print).python
    started = time.perf_counter()
    subprocess.run(
        [str(python), str(SCRIPTS), spec_script(written), str(folder / "spec.json")],
        env=checkout.env | spec["hashed"]["env"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def spec_script(written: Path) -> str:
    """`train-01-train_native.spec.json` was for `train_native`."""
    return written.name.removesuffix(".spec.json").split("-", 2)[2]


if __name__ == "__main__":
    sys.exit(main())
