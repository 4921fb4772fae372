"""The quickstart without its one-time set-up, a second run, and what the runner adds to training.

usage: .venv/bin/python -m benchmarks.chain

The runner's own cost is measured inside one run: the `train` stage as the user waits for it, and
the same script started by hand with the spec that the run wrote (the bare training script).
"""

from __future__ import annotations

import json
import shutil
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
BARE_RUNS = 3


def main() -> None:
    """Print the results as Markdown."""
    with tempfile.TemporaryDirectory(prefix="chain-") as name:
        place = Path(name)
        checkout = copy_checkout(
            place / "checkout", cache=cache_folder(), store=place / "store", home=place / "home"
        )
        first = timed(checkout, "run", RECIPE)
        again = [timed(checkout, "run", RECIPE) for _ in range(5)]
        run = (checkout.folder / "runs" / "quickstart" / "latest").resolve()
        record = json.loads((run / "run.json").read_text())
        seconds = {stage["name"]: stage["seconds"] for stage in record["stages"]}
        bare = [bare_training(checkout, run, place / f"bare-{n}") for n in range(BARE_RUNS)]
    staged = seconds["train"]
    print(f"quickstart, tools and environments in the cache: {first:.1f} s")
    print("by stage: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))
    print(f"second run: min {min(again):.2f} s, max {max(again):.2f} s")
    print(
        f"train stage {staged:.2f} s; bare script min {min(bare):.2f} s, max {max(bare):.2f} s; "
        f"the runner adds {100 * (staged / min(bare) - 1):+.1f} % of the fastest bare run"
    )


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
