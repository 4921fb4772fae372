"""`recipe data`: look at files of rows, convert them, prepare a recipe's, have new ones made.

Each is a module of its own, imported only when typed.
"""

from __future__ import annotations

import argparse
import importlib
import signal
from pathlib import Path

from runner.errors import Interrupted

HELP = (
    "Look at files of rows, write them in another format, prepare those of a recipe,\n"
    "and have a model make new ones."
)
EXAMPLE = "recipe data inspect recipes/data/spark-faq.jsonl"
_BEGIN_ANEW = ("inspect", "convert")
_BEGINS_ANEW = "run the same command again; it begins anew, and left nothing behind"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands below `recipe data`."""
    from runner.recipe import overrides
    from runner.scripts.data.files.rows import MAX_SHOWN
    from runner.scripts.data.formats import EVERY

    commands = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    inspect = commands.add_parser("inspect", help="the format, what is in it, problems by line")
    inspect.add_argument("files", nargs="*", type=Path, metavar="FILE", help="files of rows")
    inspect.add_argument(
        "--recipe", type=Path, help="show rows as its model will see them; its files by default"
    )
    inspect.add_argument(
        "--rows", type=_count, default=3, metavar="N", help="rows to show; default: %(default)s"
    )
    inspect.add_argument(
        "--bad",
        type=_many,
        metavar="N",
        help=f"bad rows to name; default: {MAX_SHOWN}, and all of them as json",
    )
    inspect.add_argument("--from", dest="source", choices=EVERY, help="read them as this format")
    _add_columns(inspect)
    inspect.add_argument("--format", choices=("text", "json"), default="text")

    convert = commands.add_parser("convert", help="write a file of rows in another format")
    convert.add_argument("file", type=Path, metavar="IN", help="a file of rows")
    convert.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help=".jsonl, .json, .csv, .tsv, perhaps with .gz, .xz or .zst; .parquet; - is the output",
    )
    convert.add_argument("--to", dest="target", choices=EVERY, required=True)
    convert.add_argument("--from", dest="source", choices=EVERY, help="default: what it looks like")
    _add_columns(convert)
    convert.add_argument("--lossy", action="store_true", help="write it though something is lost")
    convert.add_argument("--force", action="store_true", help="replace OUT where it exists")

    prepare = commands.add_parser("prepare", help="the stage prepare alone, and its statistics")
    prepare.add_argument("recipe", type=Path, help="the recipe file")
    overrides.add_option(prepare)
    prepare.add_argument("--format", choices=("text", "json"), default="text")

    synthesize = commands.add_parser("synthesize", help="new rows, by asking a model")
    synthesize.add_argument("file", type=Path, metavar="FILE", help="the synthesis recipe")
    synthesize.add_argument("-o", "--out", type=Path, metavar="OUT", help="where rows go: .jsonl")
    synthesize.add_argument(
        "--check", action="store_true", help="only check FILE and what it names"
    )
    synthesize.add_argument("--offline", action="store_true", help="from the log alone; ask nobody")
    synthesize.add_argument(
        "--force", action="store_true", help="replace OUT, though it was changed or made otherwise"
    )
    synthesize.add_argument("--format", choices=("text", "json"), default="text")


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=NAME",
        help="what the file calls a key of the format, such as output=answer; needs --from",
    )


def _count(text: str) -> int:
    if not text.isdigit() or len(text) > 4:
        raise argparse.ArgumentTypeError("give a number from 0 to 9999")
    return int(text)


def _many(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError("give a number from 0 to 999999999")
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Run what is asked for."""
    try:
        return int(importlib.import_module(f"runner.cli.data.{args.what}").main(args))
    except (KeyboardInterrupt, Interrupted) as error:
        if args.what not in _BEGIN_ANEW:
            raise
        number = error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(number, hint=_BEGINS_ANEW) from None
