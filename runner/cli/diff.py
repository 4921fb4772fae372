"""`recipe diff`: where two runs part, or what changes from one recipe to another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.verify.compare import StageComparison

HELP = (
    "Of two runs: stage by stage what they have in common, and where they part first. Of two "
    "recipes: which values change, and which stages that touches."
)
EXAMPLE = "recipe diff runs/quickstart/20260101-120000 runs/quickstart/latest"
RECIPE_SUFFIXES = (".yaml", ".yml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe diff`."""
    from runner.recipe import overrides

    parser.add_argument(
        "first", type=Path, help="a run's folder, or runs/NAME for its newest; or a recipe's file"
    )
    parser.add_argument("second", type=Path, help="another one of the same kind")
    overrides.add_option(parser, f"of the second recipe: {overrides.HELP}")
    parser.add_argument(
        "--recipes", action="store_true", help="two folders: compare every recipe below them"
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown"),
        default="text",
        help="markdown is for recipes",
    )


def main(args: argparse.Namespace) -> int:
    """Print the comparison.

    Exit code 7: the runs differ in a byte. Recipes are compared for a person: 0 in any case.
    """
    if args.recipes:
        return _folders(args)
    recipes = [path.suffix in RECIPE_SUFFIXES for path in (args.first, args.second)]
    if all(recipes):
        return _recipes(args)
    if all(map(_holds_recipes, (args.first, args.second))):
        raise UsageError(
            "these are folders of recipes, and no runs",
            hint=f"recipe diff --recipes {args.first} {args.second}",
            code="E005",
        )
    if any(recipes):
        raise UsageError(
            "a recipe cannot be compared with a run",
            hint="name two recipes or two runs; the recipe of a run is its recipe.lock.yaml",
            code="E005",
        )
    if args.set:
        raise UsageError(
            "a run is as it was; --set is for recipes",
            hint="name two recipes, such as the same one twice",
            code="E133",
        )
    if args.format == "markdown":
        raise UsageError("runs are compared as text or json", hint="--format text")
    from runner.store.store import Store
    from runner.system.folders import store_folder
    from runner.verify.compare import compare_runs
    from runner.verify.run import open_run

    found = compare_runs(open_run(args.first), open_run(args.second), Store(store_folder()))
    print(as_json(found) if args.format == "json" else as_text(found))
    return 0 if all(stage.equal for stage in found) else 7


def _recipes(args: argparse.Namespace) -> int:
    from runner.plan.changes import changes
    from runner.recipe.load import load_recipe
    from runner.report import recipe_changes
    from runner.report.reporters import print_beside

    first = load_recipe(args.first, warn=print_beside)
    second = load_recipe(args.second, warn=print_beside, overrides=args.set)
    found = changes(first, second)
    if args.format == "json":
        print(json.dumps(recipe_changes.as_json(found), indent=2, ensure_ascii=False))
    else:
        markdown = args.format == "markdown"
        print(recipe_changes.as_markdown(found) if markdown else recipe_changes.as_text(found))
    return 0


def _folders(args: argparse.Namespace) -> int:
    from runner.plan.changes_below import compare_folders
    from runner.report import recipe_changes

    if args.set:
        raise UsageError(
            "--set is for one recipe, and --recipes compares many",
            hint="leave one of them out",
            code="E133",
        )
    for folder in (args.first, args.second):
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is no folder", hint="--recipes compares two folders", code="E005"
            )
    found = compare_folders(args.first, args.second)
    if args.format == "json":
        print(json.dumps(recipe_changes.comparison_as_json(found), indent=2))  # names of any bytes
    elif args.format == "markdown":
        print(recipe_changes.comparison_as_markdown(found))
    else:
        print(recipe_changes.comparison_as_text(found))
    return 0


def _holds_recipes(path: Path) -> bool:
    """Is it a folder of recipes, and none of a run or of runs?"""
    from runner.recipe.in_folders import recipes_below

    is_run = any((path / name).exists() for name in ("run.json", "latest"))
    return path.is_dir() and not is_run and any(recipes_below(path))


def as_text(stages: list[StageComparison]) -> str:
    """One block a stage: inputs, then outputs."""
    lines = []
    for stage in stages:
        lines.append(f"{stage.stage:<10} {'equal' if stage.equal else 'DIFFERENT'}")
        lines += [f"    input   {change}" for change in stage.inputs]
        lines += [f"    output  {stage.difference}"] if stage.difference else []
    parted = next((stage for stage in stages if not stage.equal), None)
    lines.append(
        "the runs are equal in every byte" if parted is None else f"they part in {parted.stage}"
    )
    return "\n".join(lines)


def as_json(stages: list[StageComparison]) -> str:
    """The same for machines; `parts_in` is null for equal runs."""
    parted = next((stage.stage for stage in stages if not stage.equal), None)
    return json.dumps(
        {
            "schema": 1,
            "parts_in": parted,
            "stages": [
                {
                    "stage": stage.stage,
                    "equal": stage.equal,
                    "inputs": list(stage.inputs),
                    "difference": stage.difference
                    and {
                        "file": stage.difference.file,
                        "where": stage.difference.where,
                        "more_files": stage.difference.more,
                    },
                }
                for stage in stages
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
