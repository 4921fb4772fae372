"""`recipe plan --hardware` of the 70B beside a bare Python: whole commands from a cold start.

usage: .venv/bin/python -m benchmarks.plan [RUNS]

The first is the memory of a 70B on every machine that is known, with the changes that make it fit
and the largest batches; the goal is 2 s. The second is the start of the interpreter by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing import Command, table, time_side_by_side

ROOT = Path(__file__).resolve().parent.parent
LARGE = ROOT / "recipes" / "course" / "10.3-70b-qlora.yaml"
GOAL = 2.0  # seconds


def main(runs: int) -> None:
    """Print the table and whether the goal is met."""
    recipe = [sys.executable, "-m", "runner", "plan", str(LARGE), "--hardware", "all"]
    bare = Command("a bare Python", [sys.executable, "-c", ""])
    timings = time_side_by_side([Command("recipe plan, 70B", recipe), bare], runs)
    median = timings[0].median
    print(table(timings))
    print(f"\n{median:.2f} s; goal below {GOAL:.0f} s: {'met' if median < GOAL else 'not met'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
