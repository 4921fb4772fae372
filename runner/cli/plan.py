"""`recipe plan`: what a run would do, why, what it takes, and what is missing. Reads only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.plan.chain import Link
    from runner.plan.machines import Hardware
    from runner.recipe.model import Recipe
    from runner.report.plan_text import Plan

HELP = (
    "Say for every stage whether it would run, resume or be reused, and why; about how much "
    "memory, disk and time that takes; and what this machine lacks. Changes nothing."
)
EXAMPLE = "recipe plan recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe plan`."""
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument("recipe", type=Path, help="the recipe file")
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument(
        "--hardware",
        metavar="MACHINE[,MACHINE]",
        help="instead: does the training fit dgx-spark, rtx-4090, h100-80, h200, all of them, auto "
        "(this one), or the machine of a JSON file",
    )
    parser.add_argument(
        "--recommend",
        action="store_true",
        help="instead: which method, rank and length suit this model, these data and this machine "
        "(or those of --hardware), and why; unasked, a line says so where another method does",
    )
    parser.add_argument("--until", choices=ORDER, metavar="STAGE", help="stop after this stage")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print the plan."""
    from runner.plan.chain import plan_chain
    from runner.recipe.load import load_recipe
    from runner.recipe.shrink import shrink_recipe
    from runner.report.plan_text import as_json, as_markdown, as_text
    from runner.report.reporters import print_beside
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set)
    if args.shrink:
        recipe = shrink_recipe(recipe)
    if args.recommend:
        return _recommend(recipe, args)
    if args.hardware is not None:
        return _fit(recipe, args)
    links = plan_chain(recipe, stages_of(recipe, args.until), Store(store_folder()))
    plans = list(map(_plan_of, links))
    if args.format == "json":
        print(as_json(plans))
    elif args.format == "markdown":
        print(
            "\n\n".join(
                as_markdown(_file_of(link, args.recipe), plan)
                for link, plan in zip(links, plans, strict=True)
            )
        )
    elif len(plans) == 1:
        print(as_text(plans[0]))
    else:
        heads = [f"{link.recipe.name}, by {_file_of(link, args.recipe)}" for link in links]
        print(
            "\n\n".join(f"{head}\n{as_text(plan)}" for head, plan in zip(heads, plans, strict=True))
        )
    if args.format == "text" and plans[-1].trains:
        _print_advice(recipe, args)
    return 0


def _plan_of(link: Link) -> Plan:
    from runner.execution.lacks import lacks
    from runner.plan.cost import cost_here
    from runner.report.plan_text import Plan
    from runner.system.folders import cache_folder

    cost = cost_here(link.recipe, link.steps, link.runs)
    missing = lacks(link.recipe, link.steps, cost, cache_folder())
    return Plan(link.recipe.name, link.steps, cost, missing)


def _file_of(link: Link, given: Path) -> Path:
    """As the one at the terminal names it: `given` is the file of the last recipe of the chain."""
    path = link.recipe.source.path
    return given if path == given else path


def _fit(recipe: Recipe, args: argparse.Namespace) -> int:
    """Print whether the trainings of a chain fit other machines. Exit code 0 whatever they do."""
    from runner.plan.fits import fits_of
    from runner.report import fit_table

    chain = fits_of(recipe, _machines(args))
    if args.format == "json":
        *bases, last = [fit_table.as_data(each) for each in chain]
        data = {**last, **({"bases": bases} if bases else {})}
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return 0
    show = fit_table.as_markdown if args.format == "markdown" else fit_table.as_text
    heads = [f"{each.recipe}\n" if len(chain) > 1 else "" for each in chain]
    print("\n\n".join(head + show(each) for head, each in zip(heads, chain, strict=True)))
    if args.format == "text":
        _print_advice(recipe, args)
    return 0


def _machines(args: argparse.Namespace) -> list[Hardware]:
    """Those of --hardware, else this one. Raises UsageError E006."""
    from runner.plan.machines import AUTO, machines_of

    return machines_of(args.hardware or AUTO)


def _recommend(recipe: Recipe, args: argparse.Namespace) -> int:
    """Print what suits model, data and machine best. Exit code 0 whatever that is."""
    from runner.recipe.creation.advice import advise
    from runner.report import advice_text

    found = advise(recipe, _machines(args))
    if args.format == "json":
        print(json.dumps(advice_text.as_data(found), indent=2, ensure_ascii=False))
    else:
        show = advice_text.as_markdown if args.format == "markdown" else advice_text.as_text
        print(show(found))
    return 0


def _print_advice(recipe: Recipe, args: argparse.Namespace) -> None:
    """A line where another method suits better; what cannot be told is said when asked."""
    from runner.errors import UsageError
    from runner.recipe.creation.advice import advise
    from runner.report.advice_text import in_short

    try:
        found = advise(recipe, _machines(args))
    except UsageError:
        return
    where = f" --hardware {args.hardware}" if args.hardware else ""
    for line in in_short(found, f"recipe plan {args.recipe}{where}"):
        print(line)
