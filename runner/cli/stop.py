"""`recipe stop`: end a run so that the same recipe goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "End a run. A training ends behind the step at hand, with a checkpoint; any other stage at "
    "once, and only that stage is done again; a run that waits at once, too. Returns when the run "
    "has ended."
)
EXAMPLE = "recipe stop runs/quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe stop`."""
    parser.add_argument(
        "run", type=Path, nargs="?", help="folder of a run, or runs/NAME; default: what goes on"
    )
    parser.add_argument(
        "--now", action="store_true", help="do not wait for a step: go back to the last checkpoint"
    )


def main(args: argparse.Namespace) -> int:
    """Stop it, and say how to go on."""
    from runner.recipe.paths import project_root
    from runner.report.beside import say
    from runner.runs.again import command_of
    from runner.runs.ending import stop
    from runner.runs.known import chosen
    from runner.store.store import Store
    from runner.system.folders import store_folder

    run = chosen(project_root(Path.cwd() / "x.yaml"), args.run)
    ended = stop(run, Store(store_folder()), now=args.now, say=say)
    why = ended.record.get("error", {}).get("message", "")
    print(f"{ended.state}: {why}" if why else ended.state)
    if ended.state != "done":
        print(f"go on: {command_of(ended.record, ended.folder)}")
    return 0
