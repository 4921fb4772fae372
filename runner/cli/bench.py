"""`recipe bench train`: how fast a recipe trains here. Keeps nothing that is trained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from runner.report.beside import say

if TYPE_CHECKING:
    from runner.plan.machines import Hardware
    from runner.recipe.model import Recipe

SCHEMA = 1  # version of the JSON
HELP = (
    "Train a few steps of a recipe and say how fast: tokens per second without padding, with it, "
    "and with a label, how far steps differ, and what part of the hardware that is. A figure that "
    "the hardware cannot give is refused. Nothing that is trained is kept; the model and its "
    "prepared data stay in the store, for a run, until `recipe gc`."
)
EXAMPLE = "recipe bench train recipes/quickstart.yaml"
MOST = 10_000  # steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe bench`."""
    from runner.recipe import overrides

    parser.add_argument("what", choices=("train",), help="what is measured")
    parser.add_argument("recipe", type=Path, help="the recipe file")
    parser.add_argument("--steps", type=int, default=20, help="steps to measure (default: 20)")
    parser.add_argument(
        "--warm-up", type=int, default=3, help="steps before them, left out (default: 3)"
    )
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    parser.add_argument(
        "--hardware",
        metavar="MACHINE",
        help="what the GPU can do at most: one of recipe plan's machines, or a JSON file with "
        "peak_flops; for a GPU that is not among them",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Measure and print."""
    from runner.bench.train import bench
    from runner.report.bench_text import as_data, as_text

    _check(args)
    found = bench(_recipe(args), args.steps, args.warm_up, _hardware(args))
    if args.format == "json":
        print(json.dumps({"schema": SCHEMA, **as_data(found)}, indent=2, allow_nan=False))
    else:
        print(as_text(found))
    return 0


def _check(args: argparse.Namespace) -> None:
    from runner.errors import UsageError

    if not 1 <= args.steps <= MOST or not 0 <= args.warm_up <= MOST:
        raise UsageError(
            f"{args.steps} steps behind {args.warm_up} cannot be measured",
            hint="--steps 20 --warm-up 3",
            code="E935",
        )


def _hardware(args: argparse.Namespace) -> Hardware | None:
    """Raises UsageError (E006, E935)."""
    from runner.errors import UsageError
    from runner.plan.machines import AUTO, hardware

    if args.hardware is None or args.hardware == AUTO:
        return None
    found = hardware(args.hardware)
    if not found.peak_flops:
        raise UsageError(
            f"{args.hardware} does not say what its GPU can do at most",
            hint="add peak_flops, its dense rate in bfloat16, FLOP/s",
            code="E935",
        )
    return found


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe, pinned. Raises what keeps it from being trained here, before the hub is asked."""
    from runner.errors import RecipeToolError
    from runner.execution.before_hub import lacks_of, refusal
    from runner.execution.revisions import pin_revisions
    from runner.execution.run_folder import runs_folder
    from runner.recipe.load import load_recipe
    from runner.report.reporters import print_beside
    from runner.stages import stages_of

    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set)
    parts = [(recipe, stages_of(recipe, "train"))]
    try:
        if refused := refusal(recipe, ("train",), ("", 0)):
            raise refused
        return pin_revisions(recipe, runs_folder(recipe.project_root, recipe.name), say)
    except RecipeToolError:
        for lack in lacks_of(parts):
            say(f"warning: {lack}")
        raise
