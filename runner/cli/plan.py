"""`recipe plan`: what a run would do, and why. Reads only."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.plan.plan import Step, make_plan

if TYPE_CHECKING:
    from runner.report.diagnostic import Diagnostic

HELP = "Say for every stage whether it would run, resume or be reused, and why. Changes nothing."
EXAMPLE = "recipe plan recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe plan`."""
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument("recipe", type=Path, help="the recipe file")
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument("--until", choices=ORDER, metavar="STAGE", help="stop after this stage")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print the plan."""
    from runner.execution.run_folder import runs_folder
    from runner.plan.snapshot import take_snapshot
    from runner.recipe.load import load_recipe
    from runner.recipe.shrink import shrink_recipe
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    recipe = load_recipe(args.recipe, warn=say_warnings)
    if args.shrink:
        recipe = shrink_recipe(recipe)
    stages = stages_of(recipe, args.until)
    runs = runs_folder(recipe.project_root, recipe.name)
    snapshot = take_snapshot(recipe, stages, Store(store_folder()), runs)
    steps = make_plan(recipe, stages, snapshot)
    print(as_json(recipe.name, steps) if args.format == "json" else as_text(steps))
    return 0


def say_warnings(diagnostics: list[Diagnostic]) -> None:
    """On stderr: stdout is the plan's own."""
    from runner.report.reporters import REPORTERS, wants_color

    sys.stderr.write(REPORTERS["text"](diagnostics, color=wants_color(sys.stderr)))


def as_text(steps: list[Step]) -> str:
    """One line a stage: name, action, reason."""
    return "\n".join(f"{step.stage:<10} {step.action:<8} {step.reason}" for step in steps)


def as_json(name: str, steps: list[Step]) -> str:
    """The plan for machines; `key` is null while it cannot be known."""
    return json.dumps(
        {
            "schema": 1,
            "recipe": name,
            "stages": [
                {
                    "stage": step.stage,
                    "action": step.action.value,
                    "reason": step.reason,
                    "key": step.key or None,
                }
                for step in steps
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
