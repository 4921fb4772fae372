"""`recipe join`: this machine's share of a training that another one runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.execution.execute import Execution
    from runner.execution.machines.contract import Machines
    from runner.recipe.model import Recipe
    from runner.report.progress import Progress
    from runner.stages.contract import Outputs

HELP = (
    "Train together with the machine at an address, which runs the same recipe with --rendezvous. "
    "Gets and prepares model and data here, checks that recipe, model, data and environment are "
    "the same there, and trains. The first machine writes what comes out."
)
EXAMPLE = "recipe join recipes/quickstart.yaml 192.168.100.1:29400 --set train.nodes=2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe join`."""
    from runner.cli.run import address_of
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP

    parser.add_argument("recipe", type=Path, help="the recipe that the first machine runs")
    parser.add_argument(
        "address",
        type=address_of,
        metavar="HOST:PORT",
        help="what the first one's --rendezvous says",
    )
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument(
        "--no-wait", action="store_true", help="exit 6 instead of waiting for another run"
    )
    parser.add_argument(
        "--no-preflight", action="store_true", help="load a model whatever memory there is"
    )
    parser.add_argument(
        "--locked", action="store_true", help="exit 5 unless a fresh lock pins every input"
    )


def main(args: argparse.Namespace) -> int:
    """Prepare, meet, train; exit code 0 when the first machine has written everything."""
    from runner.cli.run import execute, nothing
    from runner.errors import UsageError
    from runner.execution.machines.meeting import Other
    from runner.plan.chain import plan_chain
    from runner.runs.reading import loaded
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    recipe, lock = loaded(args)
    if recipe.train.nodes == 1:
        raise UsageError(
            "this recipe is trained by one machine: there is nothing to join",
            hint="type the command that the first machine shows, with its --set train.nodes=N",
            code="E953",
        )
    *before, train = stages_of(recipe, "train")
    store = Store(store_folder())
    (link,) = plan_chain(recipe, [*before, train], store)  # no chain: validate refuses one

    def other(args: argparse.Namespace, recipe: Recipe, progress: Progress) -> Machines:
        return Other(args.address, progress.say, progress.poll)

    def take_part(execution: Execution, known: Mapping[str, Outputs]) -> None:
        execution.take_part(train, known)

    execute(
        args,
        recipe,
        before,
        store,
        link.snapshot,
        lock,
        on_start=nothing,
        base=None,
        until=before[-1].NAME,
        machines=other,
        afterwards=take_part,
        beside=[train],
    )
    print("done: the first machine has what was trained", file=sys.stderr)
    return 0
