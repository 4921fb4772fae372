"""Choose an interpreter, measure, write docs/evidence/DEVICE.json and docs/evidence.md."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.gpu import evidence, interpreter, page, results
from runner.system import hardware

SECONDS = 600
NO_GPU = (
    "error: no GPU that a torch here can use, so nothing was measured or written; try: "
    "recipe doctor, or make gpu-evidence EVIDENCE_PYTHON=/path/to/python (one whose torch sees it)"
)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 measured (whatever came out), 4 without a GPU."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for everything")
    parser.add_argument(
        "--only", default="", help="only cases with this text in their name, and nothing is written"
    )
    given = parser.parse_args(argv)
    gpus = hardware.gpus()
    try:
        chosen = interpreter.choose(
            os.environ.get(interpreter.NAMED, ""),
            lambda: interpreter.locked_environment(bool(gpus), _say),
            os.environ.get("PATH", ""),
            _say,
        )
    except interpreter.NoGpu:
        print(NO_GPU, file=sys.stderr)
        return 4
    driver = gpus[0].driver if gpus else "unknown"
    clock = evidence.Clock.of(given.seconds)
    if given.only:
        cases = [case for case in evidence.ORDER if given.only in case.name]
        evidence.rows_of(cases, chosen, clock, say=_say)
        return 0
    found = evidence.measure(chosen, driver, clock, say=_say)
    path = results.write(found)
    page.write()
    print(f"written: {path} and {page.PAGE}; commit both")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
