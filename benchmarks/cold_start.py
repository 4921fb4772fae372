"""`recipe validate` from a cold start, beside a bare Python and beside importing its two libraries.

usage: .venv/bin/python -m benchmarks.cold_start [RUNS]
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing import Command, table, time_side_by_side

ROOT = Path(__file__).resolve().parent.parent


def main(runs: int) -> None:
    """Print the table."""
    recipe = Path(sys.executable).with_name("recipe")
    commands = [
        Command(
            "recipe validate", [str(recipe), "validate", "recipes/quickstart.yaml"], folder=ROOT
        ),
        Command(
            "python -c 'import yaml, jsonschema'",
            [sys.executable, "-c", "import yaml, jsonschema"],
        ),
        Command("python -c pass", [sys.executable, "-c", "pass"]),
    ]
    print(table(time_side_by_side(commands, runs)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
