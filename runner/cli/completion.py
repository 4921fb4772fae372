"""`recipe completion SHELL`: print the script by which a shell completes our command lines."""

from __future__ import annotations

import argparse
import sys

HELP = (
    "Print the completion script of a shell: commands, options, recipes, runs, stages and codes.\n"
    "It knows the commands of this version; print it again after an update."
)
EXAMPLE = "recipe completion bash > ~/.local/share/bash-completion/completions/recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe completion`."""
    from runner.completion.shells import SHELLS

    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell that the script is for")


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    from runner.completion.shells import script

    sys.stdout.write(script(args.shell))
    return 0
