"""`recipe ls`: the runs of this project, finished or not. Reads only."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.runs.known import KnownRun

SCHEMA = 1  # version of the JSON
HELP = (
    "List the runs of this project: state, stage at work, when it began. `lost` is a run whose "
    "process was killed; the same recipe goes on where it was."
)
EXAMPLE = "recipe ls"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe ls`."""
    parser.add_argument("--running", action="store_true", help="only those that go on")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print a line a run."""
    from runner.recipe.paths import project_root
    from runner.runs.known import known_runs

    runs = list(known_runs(project_root(Path.cwd() / "x.yaml")))
    if args.running:
        runs = [run for run in runs if run.alive]
    if args.format == "json":
        print(json.dumps({"schema": SCHEMA, "runs": [as_data(run) for run in runs]}, indent=2))
    else:
        print(as_text(runs) or _nothing(args))
    return 0


def _nothing(args: argparse.Namespace) -> str:
    return "no run goes on" if args.running else "no runs yet; begin one: recipe run RECIPE"


def as_data(run: KnownRun) -> dict[str, Any]:
    """One run for scripts."""
    return {
        "run": str(run.folder),
        "recipe": run.folder.parent.name,
        "state": run.state,
        "at_work": _at_work(run),
        "started": run.record.get("started"),
        "ended": run.record.get("ended"),
        "error": run.record.get("error"),
    }


def _at_work(run: KnownRun) -> dict[str, Any] | None:
    from runner.runs.progress import at_work

    return at_work(run.last_events()) if run.alive else None


def as_text(runs: Sequence[KnownRun]) -> str:
    """Columns: run, state, when it began, what it is at or why it ended."""
    from runner.report.printable import escaped
    from runner.runs.outcome import how_it_ended
    from runner.runs.progress import in_words

    lines = []
    width = max((len(run.name) for run in runs), default=0)
    for run in runs:
        began = str(run.record.get("started", ""))[:16].replace("T", " ")
        more = in_words(_at_work(run)) or how_it_ended(run)
        first = more.split("\n")[0][:80]
        lines.append(
            f"{run.name:<{width}}  {run.state:<11}  {began:<16}  {escaped(first)}".rstrip()
        )
    return "\n".join(lines)
