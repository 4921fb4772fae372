"""`recipe compare`: the quality of runs side by side. It reads, and never trains."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.report.beside import say_line

if TYPE_CHECKING:
    from runner.compare.candidates import Candidate
    from runner.judge.settings import Settings

HELP = (
    "Quality of finished runs side by side, base and tuned models: held-out loss, answers to the "
    "same questions, preferences, task metrics, forgetting; each difference with its interval, and "
    "the examples that differ most."
)
EXAMPLE = "recipe compare runs/quickstart runs/sft-then-dpo -o comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe compare`."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="a run's folder, or runs/NAME for its newest; one is compared with its own base",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="also write compare.html and compare.json there",
    )
    parser.add_argument(
        "--judge",
        type=Path,
        metavar="FILE",
        help="have a model judge the answers, by this file; what it says goes into a log beside it",
    )
    parser.add_argument("--offline", action="store_true", help="judge by the log alone; ask nobody")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print the comparison. What differs is for a person to judge: exit code 0 in any case."""
    from runner.compare.candidates import candidates
    from runner.compare.page import PAGE, as_text, write_page
    from runner.compare.result import as_data
    from runner.judge.result import judges_itself
    from runner.report.compare_text import print_comparison
    from runner.verify.run import open_run

    if args.output is not None:
        _check_folder(args.output)
    settings = _judge_settings(args)
    runs = [open_run(path) for path in args.runs]
    found = candidates(runs)
    data = as_data(found)
    if settings is not None:
        data["judge"] = _judged(found, settings, offline=args.offline)
        data["notes"] += data["judge"].pop("notes")
        if settings.endpoint.url is None:  # of Ollama, where our models lie
            sections = (run.record.get("resolved", {}).get("ollama") for run in runs)
            deployed = [section["name"] for section in sections if section]
            data["notes"] += judges_itself(settings.endpoint.model, deployed)
    if args.output is not None:
        write_page(args.output, data)
    if args.format == "json":
        print(as_text(data), end="")
    else:
        page = None if args.output is None else str(args.output / PAGE)
        print_comparison(data, page, sys.stdout)
    return 0


def _judge_settings(args: argparse.Namespace) -> Settings | None:
    """Of --judge. Raises RecipeInvalid, and UsageError (E915) for --offline without it."""
    from runner.errors import UsageError
    from runner.judge.settings import read_settings

    if args.judge is not None:
        return read_settings(args.judge)
    if args.offline:
        raise UsageError(
            "--offline says from where verdicts come, and nobody is to judge",
            hint="leave it out, or name the judge's file: --judge judge.yaml",
            code="E915",
        )
    return None


def _judged(found: Sequence[Candidate], settings: Settings, *, offline: bool) -> dict[str, Any]:
    """What the judge says, as plain data; what it cost goes to stderr."""
    from runner.judge.command import Told, judge_candidates

    told = Told(say_line, _Progress())
    data, tally = judge_candidates(found, settings, told, offline=offline)
    if not (tally.from_log or tally.new or tally.failed_tries):
        say_line("judge: not asked, since no two answers differ")
    else:
        say_line(
            f"judge: {tally.from_log} answers from the log, {tally.new} new; "
            f"{tally.failed_tries} tries failed; {tally.new_tokens} tokens now"
        )
    return data


class _Progress:
    """Says on a terminal, every few seconds, how many prompts are judged."""

    SECONDS = 5.0

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._said >= self.SECONDS:
            self._said = time.monotonic()
            print(f"{done} of {total} judged", file=sys.stderr)


def _check_folder(folder: Path) -> None:
    """Raise UsageError (E923) where the page cannot go."""
    from runner.errors import UsageError

    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder} is a file, and the page goes into a folder",
            hint="name a folder: -o comparison",
            code="E923",
        )
