"""`recipe status`: how far a run is. Reads only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.runs.known import KnownRun

SCHEMA = 1  # version of the JSON
HELP = "Say how far a run is: its stages, and step, loss, speed and time left of the one at work."
EXAMPLE = "recipe status runs/quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe status`."""
    parser.add_argument(
        "run", type=Path, nargs="?", help="folder of a run, or runs/NAME; default: what goes on"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print it. The exit code is 0 whatever the run's state."""
    from runner.recipe.paths import project_root
    from runner.runs.known import chosen

    run = chosen(project_root(Path.cwd() / "x.yaml"), args.run)
    data = as_data(run)
    print(json.dumps(data, indent=2) if args.format == "json" else as_text(data))
    return 0


def as_data(run: KnownRun) -> dict[str, Any]:
    """For scripts."""
    from runner.runs.outcome import how_it_ended
    from runner.runs.progress import at_work, stages_of

    events = run.all_events()
    return {
        "schema": SCHEMA,
        "run": str(run.folder),
        "state": run.state,
        "started": run.record.get("started"),
        "ended": run.record.get("ended"),
        "stages": stages_of(events),
        "at_work": at_work(events) if run.alive else None,
        "error": run.record.get("error"),
        "ended_with": how_it_ended(run),
        "next": _next(run),
    }


def _next(run: KnownRun) -> str:
    """What to type."""
    from runner.runs.again import command_of

    if run.alive:
        return f"recipe logs -f {run.folder}"
    if run.state == "done":
        return f"recipe verify {run.folder}"
    return command_of(run.record, run.folder)


def as_text(data: dict[str, Any]) -> str:
    """For a person."""
    from runner.report.printable import escaped
    from runner.runs.progress import in_words

    lines = [f"{data['state']}  {data['run']}"]
    for stage in data["stages"]:
        took = f" in {stage['seconds']:.1f} s" if "seconds" in stage else ""
        lines.append(f"  {stage['name']:<10} {stage['state']}{took}")
    if data["at_work"]:
        lines.append(f"at work: {escaped(in_words(data['at_work']))}")
    if data["error"]:
        lines.append(f"error[{data['error']['code']}]: {escaped(data['ended_with'])}")
    elif data["ended_with"]:
        lines.append(f"it was to go {escaped(data['ended_with'])}")
    return "\n".join([*lines, f"next: {data['next']}"])
