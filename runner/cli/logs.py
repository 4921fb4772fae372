"""`recipe logs`: what the programs of a run said. Reads only."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.runs.known import KnownRun

HELP = (
    "Show the logs of a stage: of the last one where none is named, and which others there are. "
    "With -f those of all stages, also what comes, until the run ends."
)
EXAMPLE = "recipe logs -f runs/quickstart train"
LOOK_SECONDS = 0.5
TOLD = ".spec.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe logs`."""
    from runner.stages import ORDER

    parser.add_argument(
        "run", type=Path, nargs="?", help="folder of a run, or runs/NAME; default: what goes on"
    )
    parser.add_argument("stage", nargs="?", choices=ORDER, metavar="STAGE", help="of this one only")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="instead of the logs: the memory by kind and step, beside what was planned",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of --memory")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")


def main(args: argparse.Namespace) -> int:
    """Print the logs, each under a line that names it; no control characters."""
    from runner.recipe.paths import project_root
    from runner.report.printable import one_column_each
    from runner.runs.known import chosen, read
    from runner.runs.outcome import why_no_log

    run = chosen(project_root(Path.cwd() / "x.yaml"), args.run)
    if args.memory:
        print_memory(run, args.format)
        return 0
    stage = args.stage
    if stage is None and not args.follow:
        *others, stage = stages_with_logs(run.folder / "logs") or [""]
        if others:
            print(f"logs of {stage}; of others: recipe logs {args.run or run.folder} STAGE, where")
            print(f"STAGE is {', '.join(others)}; all of them, as they come: -f")
    printed = Printed(run.folder / "logs", stage, own=args.stage is None)
    printed.more()
    if printed.nothing and args.stage is not None:
        print(one_column_each(why_no_log(run, args.stage)))
    elif printed.nothing and (error := run.record.get("error")):
        print(one_column_each(f"no program has said anything; error[{error['code']}]:"))
        print(one_column_each(str(error["message"])))
    while args.follow and run.alive:
        time.sleep(LOOK_SECONDS)
        run = read(run.folder)  # before the look, so that no last words are missed
        printed.more()
    return 0


def print_memory(run: KnownRun, form: str) -> None:
    """What lies in memory, as far as the run has come."""
    import json

    from runner.execution.events import read_events
    from runner.report.memory_text import memory_lines, memory_report
    from runner.runs.known import EVENTS

    path = run.folder / EVENTS
    events = read_events(path)[0] if path.is_file() else []
    report = memory_report(run.record, events)
    print(json.dumps(report, indent=2) if form == "json" else "\n".join(memory_lines(report)))


def stages_with_logs(folder: Path) -> list[str]:
    """In order."""
    from runner.stages import ORDER

    names = {path.name.split("-")[0] for path in _logs(folder)}
    return [name for name in ORDER if name in names]


def _logs(folder: Path) -> list[Path]:
    """What programs said; not what they were told."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in sorted(found, key=_place) if not path.name.endswith(TOLD)]


class Printed:
    """How much of every log has been printed: of one stage and of the run itself, or of all."""

    def __init__(self, folder: Path, stage: str | None, *, own: bool) -> None:
        """`own`: also what the run itself said, where it goes on in the background."""
        self._folder, self._stage, self._own = folder, stage, own
        self._offsets: dict[Path, int] = {}
        self._last: Path | None = None

    def more(self) -> None:
        """Print what is new: whole lines, each log under its name."""
        from runner.runs.background import LOG

        for path in _logs(self._folder):
            own = path.name == LOG and self._own
            if not self._stage or own or path.name.startswith(f"{self._stage}-"):
                self._print(path)
        sys.stdout.flush()

    @property
    def nothing(self) -> bool:
        """Was there not a line?"""
        return not self._offsets

    def _print(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        if not new:
            return
        self._offsets[path] = self._offsets.get(path, 0) + len(new)
        from runner.report.printable import one_column_each

        if path != self._last:
            print(f"==> {path.name} <==")
            self._last = path
        for line in new.decode(errors="replace").splitlines():
            print(one_column_each(line))


def _place(path: Path) -> tuple[int, str]:
    """Logs are numbered within a stage, and stages follow one another; a run's own comes first."""
    from runner.stages import ORDER

    stage = path.name.split("-")[0]
    return (ORDER.index(stage) if stage in ORDER else -1, path.name)
