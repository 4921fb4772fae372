"""`recipe lock`: pin every input of a recipe in a file that can itself be run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.report.beside import say

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs

HELP = (
    "Write NAME.lock.yaml beside a recipe: every default, the digest of every input, the model's\n"
    "facts, environments and tools. Commit it; `recipe run` then goes by it."
)
EXAMPLE = "recipe lock recipes/quickstart.yaml"
FORMATS = ("text", "json", "github", "sarif")  # of runner/report/reporters.py, imported late


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe lock`."""
    parser.add_argument(
        "recipes",
        type=Path,
        nargs="+",
        metavar="RECIPE",
        help="the recipe file; with --check also several, or folders: every lock below them",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 5 when a lock is stale"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="with --check: a branch of the hub is the commit in the lock, and nobody is asked",
    )
    parser.add_argument("--format", choices=FORMATS, help="with --check: of the report")
    parser.add_argument(
        "--results",
        action="store_true",
        help="also write what the newest run gave on this platform, as what is to be expected",
    )


def main(args: argparse.Namespace) -> int:
    """Write the lock, or check it."""
    _refuse_mixtures(args)
    if args.check:
        return _check(args.recipes, offline=args.offline, form=args.format or "text")
    from runner.lock.locking import make_lock, write_lock
    from runner.recipe.load import load_recipe

    recipe = _pin(load_recipe(args.recipes[0]))
    print(f"wrote {write_lock(recipe, make_lock(recipe, fetched_model))}")
    if args.results:
        print(f"wrote {_write_results(recipe)}")
    return 0


def fetched_model(recipe: Recipe) -> Mapping[str, Outputs]:
    """The outputs of `fetch`, and of `fetch_reward` where it is wanted; fetched where need be.

    Where the recipe names other ones, these are run first.
    """
    from runner.execution.chain import ensure_base, runner_of
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.plan.snapshot import read_surroundings
    from runner.report.progress import Progress
    from runner.stages import stages_of
    from runner.store.clean_place import passing_runs
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder

    stages = stages_of(recipe, "fetch" if recipe.reward is None else "fetch_reward")
    store = Store(store_folder())
    base = ensure_base(recipe, store, runner_of(store, cache_folder()))
    with passing_runs(cache_folder(), store) as place:
        run = RunFolder(place / "runs")
        with Progress(run.events, [stage.NAME for stage in stages], sys.stderr) as progress:
            results = Execution(
                recipe=recipe,
                stages=stages,
                surroundings=read_surroundings(recipe, stages),
                store=store,
                run=run,
                cache=cache_folder(),
                on_poll=progress.poll,
                say=progress.say,
                base=base,
            ).execute()
    return {result.name: result.outputs for result in results}


def _refuse_mixtures(args: argparse.Namespace) -> None:
    """Options that only a check has."""
    from runner.errors import UsageError

    given = {
        "several recipes": len(args.recipes) > 1,
        "--offline": args.offline,
        "--format": args.format is not None,
    }
    if not args.check and (wrong := [name for name, is_given in given.items() if is_given]):
        raise UsageError(
            f"{wrong[0]}: only with --check", hint="lock one recipe, or add --check", code="E002"
        )


def _pin(recipe: Recipe) -> Recipe:
    """With the commits that the hub has now for branches and tags."""
    from runner.execution.revisions import pin_revisions
    from runner.execution.run_folder import runs_folder

    runs = runs_folder(recipe.project_root, recipe.name)
    return pin_revisions(recipe, runs, say)


def _check(recipes: list[Path], *, offline: bool, form: str) -> int:
    """Report what is stale, as `recipe validate` reports what is wrong."""
    from runner.lock.checking import check_locks, exit_code
    from runner.report.reporters import REPORTERS, wants_color

    count, diagnostics = check_locks(recipes, None if offline else _pin)
    told = None if form in ("text", "github") else count
    color = wants_color(sys.stdout)
    sys.stdout.write(REPORTERS[form](diagnostics, files=told, color=color))
    if told is None:
        bad = len({diagnostic.file for diagnostic in diagnostics})
        counted = f"{count} lock{'' if count == 1 else 's'} checked"
        outcome = f"{bad} not fresh" if bad else "all fresh"
        none = "there is no lock here; `recipe lock RECIPE` writes one"
        print(f"{counted}: {outcome}" if count else none)
    return exit_code(diagnostics)


def _write_results(recipe: Recipe) -> Path:
    from runner.execution.run_folder import runs_folder
    from runner.lock.results import write_results
    from runner.verify.run import open_run

    return write_results(recipe, open_run(runs_folder(recipe.project_root, recipe.name)))
