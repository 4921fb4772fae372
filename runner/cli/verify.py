"""`recipe verify`: prove that a run's results are what it says, by hash or by doing them again."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.verify.files import Checked
    from runner.verify.rederive import Display, Rederived
    from runner.verify.run import Run

HELP = (
    "Prove a run. files: hash everything again. export: derive merge, GGUF and what Ollama gets\n"
    "again and compare the bytes. train: derive everything again, training included."
)
EXAMPLE = "recipe verify runs/quickstart --level export"
LEVELS = ("files", "export", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe verify`."""
    parser.add_argument("run", type=Path, help="a run's folder, or runs/NAME for its newest")
    parser.add_argument("--level", choices=LEVELS, default="files")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Exit code 0 when proved, 7 when not."""
    from runner.verify.run import open_run

    return verify(open_run(args.run), args.level, args.format)


def verify(run: Run, level: str, style: str) -> int:
    """Verify `run` and say what came out; 7 when something is not as recorded."""
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder
    from runner.verify.files import verify_files
    from runner.verify.rederive import rederive

    store = Store(store_folder())
    checked = verify_files(run, store, _show_count)
    again: Rederived | None = None
    if level != "files" and not any(item.problem for item in checked):
        again = rederive(run, level, store, cache_folder(), open_display=_progress)
    good = not any(item.problem for item in checked) and (again is None or not again.difference)
    if style == "json":
        print(json.dumps(as_data(run, level, checked, again), indent=2, ensure_ascii=False))
    else:
        print("\n".join(as_lines(run, level, checked, again)))
    return 0 if good else 7


def as_lines(run: Run, level: str, checked: list[Checked], again: Rederived | None) -> list[str]:
    """What was found, worst first, and one line that sums it up."""
    bad = [item for item in checked if item.problem]
    lines = [f"changed   {item.path} {item.problem}" for item in bad]
    lines += [f"not here  {item.path}: no longer in the store" for item in checked if item.absent]
    hashed = sum(not item.absent for item in checked)
    if bad:
        lines.append(f"NOT as recorded: {len(bad)} of {hashed} files of {run.folder}")
        if level != "files":
            lines.append(f"level {level} was not tried: it would start from changed files")
        lines.append("next: run the recipe again; what is damaged is made anew")
        return lines
    lines.append(f"files     {hashed} files hashed, all as recorded")
    if until := run.record.get("until"):
        lines.append(f"note      the run ended with {until}, as it was told to (--until)")
    if again is not None:
        lines += [f"note      {note}" for note in again.notes]
        if again.difference is None:
            derived = ", ".join(again.stages)
            lines.append(f"{level:<9} derived again, every byte equal: {derived}")
        else:
            lines.append(f"NOT reproduced: the first difference is in {again.difference}")
    return lines


def as_data(
    run: Run, level: str, checked: list[Checked], again: Rederived | None
) -> dict[str, Any]:
    """The same for machines."""
    data: dict[str, Any] = {
        "schema": 1,
        "run": str(run.folder),
        "level": level,
        "files": sum(not item.absent for item in checked),
        "changed": [
            {"stage": item.stage, "path": str(item.path), "problem": item.problem}
            for item in checked
            if item.problem
        ],
        "absent": [str(item.path) for item in checked if item.absent],
        "derived": None,
    }
    if again is not None:
        found = again.difference
        data["derived"] = {
            "stages": list(again.stages),
            "notes": list(again.notes),
            "difference": found
            and {"stage": found.stage, "file": found.file, "where": found.where},
        }
    return data


def _show_count(done: int, total: int) -> None:
    """On a terminal, how many files are hashed."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} files hashed", end="\n" if done == total else "", file=sys.stderr)


@contextlib.contextmanager
def _progress(events: Path, stages: list[str]) -> Iterator[Display]:
    from runner.report.progress import Progress
    from runner.verify.rederive import Display

    with Progress(events, stages, sys.stderr) as progress:
        yield Display(progress.poll, progress.say)
