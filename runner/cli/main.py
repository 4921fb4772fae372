"""`recipe COMMAND ...`: find the command's module, parse, run, and turn every error into words.

Each command module has `HELP`, `EXAMPLE`, `add_arguments(parser)` and `main(args) -> exit code`.
Importing one command never imports another, so `validate` starts fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from runner import __version__
from runner.errors import Interrupted, RecipeInvalid, RecipeToolError
from runner.report.printable import lines_escaped
from runner.system.sharing import closed, impossible, share_with_group

# command -> what it does, in one line. The module is runner.cli.<command>.
COMMANDS = {
    "run": "run a recipe to the end, reusing what is already there",
    "join": "train together with another machine that runs the same recipe",
    "ls": "list the runs of this project, and which go on",
    "status": "say how far a run is",
    "logs": "show what a run's programs said, also while they do",
    "stop": "end a run so that it can go on later: a training with a checkpoint",
    "plan": "say what a run would do, and why",
    "new": "write a commented recipe for a model, data and a machine",
    "data": "look at files of rows, convert them, prepare a recipe's",
    "validate": "check recipes: all files, all errors at once",
    "show": "print a recipe with every default, and where each value came from",
    "lock": "pin every input of a recipe in a file that can be run",
    "verify": "prove a run: hash its files, or derive them again",
    "diff": "say where two runs part, or what changes from one recipe to another",
    "compare": "set the quality of runs side by side, each difference with its interval",
    "attest": "state what a run made and from what, for others to check; sign it",
    "bundle": "write a run as one archive for another machine",
    "webui": "start LLaMA Factory's web UI with a recipe's values in its form",
    "capture": "turn a run of LLaMA Factory's web UI into a recipe",
    "crosscheck": "train one recipe in several ways, and compare them byte for byte",
    "bench": "say how fast a recipe trains here, and refuse what cannot be",
    "doctor": "say whether this machine is ready, and for a recipe",
    "explain": "say what a code such as E102 means, and the fix",
    "migrate": "bring recipes to the newest schema, comments kept",
    "schema": "print the JSON Schema of recipes",
    "completion": "print the completion script of bash, zsh or fish",
    "gc": "remove stored results that no run refers to",
}
EXAMPLES = """examples:
  recipe run recipes/quickstart.yaml
  recipe plan recipes/quickstart.yaml
  recipe validate recipes/
"""
EXIT_BUG = 3


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. Never raises."""
    arguments = list(argv)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments.insert(0, "run")
    try:
        signal.signal(signal.SIGTERM, _on_terminate)
        args = parse(arguments)
        share_with_group()
        return int(importlib.import_module(f"runner.cli.{args.command}").main(args))
    except RecipeInvalid as error:
        return _with_notes(error, _report_invalid(error))
    except RecipeToolError as error:
        return _with_notes(error, _report(error))
    except KeyboardInterrupt:
        return _report(Interrupted(signal.SIGINT))
    except BrokenPipeError:
        # The reader of our output went away (`recipe show x.yaml | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except Exception as error:
        code = _report_disk(error, arguments)
        return _with_notes(error, code) if code else _report_bug(arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Only the command that was typed adds its options."""
    parser = _Parser(
        prog="recipe",
        description="Run declarative fine-tuning recipes, reproducibly.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"recipe {__version__}")
    name = next((word for word in arguments if not word.startswith("-")), None)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, help_line in COMMANDS.items():
        if command != name:
            subparsers.add_parser(command, help=help_line)
            continue
        module = importlib.import_module(f"runner.cli.{command}")
        subparser = subparsers.add_parser(
            command,
            help=help_line,
            description=f"{module.HELP}\n\nexample:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        _typed(parser, args).error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _typed(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the command that was typed, or of its part (`recipe data inspect`)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return _typed(action.choices[getattr(args, action.dest)], args)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says which command or option was meant."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message; exit code 2."""
        options = [option for each in self._actions for option in each.option_strings]
        super().error(lines_escaped(message + _meant(message, options)))


def _meant(message: str, options: Sequence[str]) -> str:
    """What to add to argparse's `message`; "" where nothing is near the word that it refuses.

    >>> _meant("argument COMMAND: invalid choice: 'plann' (choose from ...)", [])
    '; did you mean plan?'
    >>> _meant("unrecognized arguments: --hardwear=all", ["--hardware"])
    '; did you mean --hardware?'
    """
    from runner.recipe.suggest import nearest

    word = re.search(r"COMMAND: invalid choice: '([^']*)'", message)
    option = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    near = nearest(word[1], COMMANDS) if word else nearest(option[1], options) if option else None
    return f"; did you mean {near}?" if near else ""


def _on_terminate(signal_number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal_number)


def _with_notes(error: Exception, code: int) -> int:
    """Print what else is to be said of a reported error: of several recipes, which were done."""
    for note in getattr(error, "__notes__", ()):
        print(lines_escaped(str(note)), file=sys.stderr)
    return code


def _report(error: RecipeToolError) -> int:
    from runner.report.beside import error_lines

    print(*error_lines(error), sep="\n", file=sys.stderr)
    return error.exit_code


def _report_invalid(error: RecipeInvalid) -> int:
    from runner.report.reporters import REPORTERS

    print(REPORTERS["text"](error.diagnostics), file=sys.stderr, end="")
    return error.exit_code


def _report_disk(error: Exception, arguments: Sequence[str]) -> int:
    """A full or failing disk, and a cache that takes no files, are no bugs of ours.

    0 for every other error.
    """
    from runner.store.atomic import disk_failure

    if not isinstance(error, OSError):
        return 0
    failure = disk_failure(error, f"running `recipe {arguments[0]}`") or closed(error)
    failure = failure or impossible(error)
    return 0 if failure is None else _report(failure)


def _report_bug(arguments: Sequence[str]) -> int:
    """Our bug: keep a log ready to paste, say where it is."""
    from runner.system.folders import cache_folder

    text = "".join(
        [
            f"spark-recipes {__version__}\n",
            f"python {sys.version}\n",
            f"command: recipe {' '.join(arguments)}\n\n",
            traceback.format_exc(),
        ]
    )
    print(lines_escaped(text), file=sys.stderr)
    try:
        log = Path(cache_folder()) / "crash.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text, encoding="utf-8")
        print(f"error[E003]: this is a bug in Spark Recipes; the log is in {log}", file=sys.stderr)
    except OSError:
        print("error[E003]: this is a bug in Spark Recipes; the log is above", file=sys.stderr)
    return EXIT_BUG
