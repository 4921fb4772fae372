"""`recipe compare`: the quality of runs side by side. It reads, and never trains."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = (
    "Quality of finished runs side by side, base and tuned models: held-out loss, answers to the "
    "same questions, preferences, task metrics, forgetting; each difference with its interval, and "
    "the examples that differ most."
)
EXAMPLE = "recipe compare runs/sft/latest runs/dpo/latest -o comparison"


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
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print the comparison. What differs is for a person to judge: exit code 0 in any case."""
    from runner.compare.candidates import candidates
    from runner.compare.result import as_data
    from runner.report.compare_text import print_comparison
    from runner.verify.run import open_run

    if args.output is not None:
        _check_folder(args.output)
    data = as_data(candidates([open_run(path) for path in args.runs]))
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if args.output is not None:
        from runner.report.compare_html import as_html
        from runner.store.atomic import make_folders, write_atomic

        make_folders(args.output)
        write_atomic(args.output / "compare.json", text)
        write_atomic(args.output / "compare.html", as_html(data))
    if args.format == "json":
        print(text, end="")
    else:
        page = None if args.output is None else str(args.output / "compare.html")
        print_comparison(data, page, sys.stdout)
    return 0


def _check_folder(folder: Path) -> None:
    """Raise UsageError (E923) where the page cannot go."""
    from runner.errors import UsageError

    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder} is a file, and the page goes into a folder",
            hint="name a folder: -o comparison",
            code="E923",
        )
