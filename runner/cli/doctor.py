"""`recipe doctor`: is this machine ready, and for this recipe. Changes nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.doctor.check import Check

SCHEMA = 1  # version of the JSON
HELP = (
    "Check GPU, driver and torch, memory and who holds it, limits, disk, clock and Ollama; with a "
    "recipe also what it needs of them, and whether the hub gives you its model. Changes nothing. "
    "Ends with 4 when something would end a run."
)
EXAMPLE = "recipe doctor recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe doctor`."""
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP

    parser.add_argument("recipe", type=Path, nargs="?", help="is it ready for this recipe, too")
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print every check; 4 when there is a problem."""
    from runner.doctor.check import State
    from runner.system.hardware import ROOT

    checks = [*of_machine(ROOT), *_of_recipe(args, ROOT)]
    if args.format == "json":
        data = {"schema": SCHEMA, "checks": [asdict(check) for check in checks]}
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        print(as_text(checks))
    return 4 if any(check.state is State.PROBLEM for check in checks) else 0


def of_machine(root: Path) -> Iterator[Check]:
    """The checks that need no recipe."""
    from runner.doctor import gpu, kernel, places
    from runner.doctor.settings import settings
    from runner.system.folders import cache_folder, store_folder

    cache = cache_folder()
    yield from settings()
    yield from gpu.gpus(root, cache)
    yield from kernel.memory(root, unified=gpu.is_unified(root))
    yield kernel.swap(root)
    yield kernel.limit(root)
    yield kernel.clock()
    yield from places.folders(cache, store_folder())
    yield from places.builds(cache)
    yield places.servers(cache)


def _of_recipe(args: argparse.Namespace, root: Path) -> Iterator[Check]:
    if args.recipe is None:
        return
    from runner.doctor.check import Check, State
    from runner.doctor.recipe import checks
    from runner.errors import MachineCannot
    from runner.recipe.load import load_recipe
    from runner.recipe.shrink import shrink_recipe
    from runner.report.reporters import print_beside
    from runner.system.folders import cache_folder

    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set)
    try:
        yield from checks(shrink_recipe(recipe) if args.shrink else recipe, cache_folder(), root)
    except MachineCannot as error:  # it cannot even be planned: the other checks are told too
        yield Check("recipe", State.PROBLEM, error.message, fix=error.hint)


def as_text(checks: Sequence[Check]) -> str:
    """A line a check; below it why it matters and what to do, where something is to be done."""
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.name}: {check.found}")
        lines += [f"{'':<8} {label} {text}" for label, text in _more(check) if text]
    bad = sum(check.state in ("problem", "warning") for check in checks)
    lines.append("this machine is ready" if not bad else f"{bad} to look at")
    return "\n".join(lines)


def _more(check: Check) -> list[tuple[str, str]]:
    return [("why:", check.why), ("fix:", check.fix)]
