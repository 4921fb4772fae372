"""`recipe plan`: what a run would do, why, what it takes, and what is missing. Reads only."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.report.beside import say

if TYPE_CHECKING:
    from runner.plan.chain import Link
    from runner.plan.machines import Hardware
    from runner.recipe.model import Recipe
    from runner.report.plan_text import Plan

HELP = (
    "Say for every stage whether it would run, resume or be reused, and why; about how much "
    "memory, disk and time that takes; and what this machine lacks. Changes nothing."
)
PLANS = 1  # version of the JSON of several recipes
EXAMPLE = "recipe plan recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe plan`."""
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument(
        "recipes", type=Path, nargs="+", metavar="RECIPE", help="the recipe file, or several"
    )
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    overrides.add_nodes_option(parser)
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
    """Print the plans, of several recipes each as if it were run by itself."""
    from runner.execution.published_twin import planned_twin
    from runner.report.reporters import print_beside
    from runner.runs.several import chosen, read_all, refuse_shared_runs

    asked = chosen(args, say)
    recipes = read_all([each.recipe for each in asked], args.set, (), print_beside)
    refuse_shared_runs(recipes)
    if args.shrink:
        recipes = list(map(planned_twin, recipes))
    said = [_said(recipe, each) for recipe, each in zip(recipes, asked, strict=True)]
    if len(said) > 1 and args.format == "json":
        print(json.dumps({"schema": PLANS, "recipes": said}, indent=2, ensure_ascii=False))
    elif args.format == "json":
        print(json.dumps(said[0], indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(str, _with_heads(said, asked))))
    return 0


def _with_heads(said: Sequence[Any], asked: Sequence[argparse.Namespace]) -> Iterator[str]:
    """As Markdown each has its own."""
    for text, args in zip(said, asked, strict=True):
        head = len(said) > 1 and args.format == "text"
        yield f"# {args.recipe}\n{text}" if head else text


def _said(recipe: Recipe, args: argparse.Namespace) -> Any:
    """What is asked of one recipe: text, or data for JSON."""
    if args.recommend:
        return _recommended(recipe, args)
    if args.hardware is not None:
        return _fit(recipe, args)
    return _planned(recipe, args)


def _planned(recipe: Recipe, args: argparse.Namespace) -> Any:
    from runner.plan.chain import plan_chain, plan_compared
    from runner.report.plan_text import as_data, as_markdown, as_text
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    store, stages = Store(store_folder()), stages_of(recipe, args.until)
    compared = plan_compared(recipe, stages, store)
    own = plan_chain(recipe, stages, store)
    if args.format == "json":
        beside = [as_data(list(map(_plan_of, each))) for each in compared]
        data = as_data(list(map(_plan_of, own)))
        return {**data, **({"compared": beside} if beside else {})}
    links = [link for chain in (*compared, own) for link in chain]
    plans = list(map(_plan_of, links))
    files = [_file_of(link, args.recipe) for link in links]
    if args.format == "markdown":
        each = [as_markdown(file, plan) for file, plan in zip(files, plans, strict=True)]
        return "\n\n".join(each)
    heads = [
        f"{link.recipe.name}, by {file}\n" if len(links) > 1 else ""
        for link, file in zip(links, files, strict=True)
    ]
    text = "\n\n".join(head + as_text(plan) for head, plan in zip(heads, plans, strict=True))
    return "\n".join([text, *(_advice(recipe, args) if plans[-1].trains else [])])


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


def _fit(recipe: Recipe, args: argparse.Namespace) -> Any:
    """Whether the trainings of a chain fit other machines. Exit code 0 whatever they do."""
    from runner.plan.fits import fits_of
    from runner.report import fit_table

    chain = fits_of(recipe, _machines(args), args.until)
    if args.format == "json":
        *bases, last = [fit_table.as_data(each) for each in chain]
        return {**last, **({"bases": bases} if bases else {})}
    show = fit_table.as_markdown if args.format == "markdown" else fit_table.as_text
    heads = [f"{each.recipe}\n" if len(chain) > 1 else "" for each in chain]
    text = "\n\n".join(head + show(each) for head, each in zip(heads, chain, strict=True))
    return "\n".join([text, *(_advice(recipe, args) if args.format == "text" else [])])


def _machines(args: argparse.Namespace) -> list[Hardware]:
    """Those of --hardware, else this one. Raises UsageError E006."""
    from runner.plan.machines import AUTO, machines_of

    return machines_of(AUTO if args.hardware is None else args.hardware)


def _recommended(recipe: Recipe, args: argparse.Namespace) -> Any:
    """What suits model, data and machine best. Exit code 0 whatever that is."""
    from runner.recipe.creation.advice import advise
    from runner.report import advice_text

    found = advise(recipe, _machines(args))
    if args.format == "json":
        return advice_text.as_data(found)
    show = advice_text.as_markdown if args.format == "markdown" else advice_text.as_text
    return show(found)


def _advice(recipe: Recipe, args: argparse.Namespace) -> Iterator[str]:
    """A line where another method suits better; what cannot be told is said when asked."""
    from runner.errors import UsageError
    from runner.recipe.creation.advice import advise
    from runner.recipe.typed import typed
    from runner.report.advice_text import in_short

    try:
        found = advise(recipe, _machines(args))
    except UsageError:
        return
    where = f" --hardware {args.hardware}" if args.hardware else ""
    yield from in_short(found, f"recipe plan {typed(recipe)}{where}")
