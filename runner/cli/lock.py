"""`recipe lock`: pin every input of a recipe in a file that can itself be run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs

HELP = (
    "Write NAME.lock.yaml beside a recipe: every default, the digest of every input, the model's\n"
    "facts, environments and tools. Commit it; `recipe run` then goes by it."
)
EXAMPLE = "recipe lock recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe lock`."""
    parser.add_argument("recipe", type=Path, help="the recipe file")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 5 when the lock is stale"
    )
    parser.add_argument(
        "--results",
        action="store_true",
        help="also write what the newest run gave on this platform, as what is to be expected",
    )


def main(args: argparse.Namespace) -> int:
    """Write the lock, or check it."""
    from runner.execution.revisions import pin_revisions
    from runner.execution.run_folder import runs_folder
    from runner.lock.file import lock_path
    from runner.lock.locking import make_lock, require_fresh, write_lock
    from runner.recipe.load import load_recipe

    recipe = load_recipe(args.recipe)
    runs = runs_folder(recipe.project_root, recipe.name)
    recipe = pin_revisions(recipe, runs, lambda message: print(message, file=sys.stderr))
    path = lock_path(args.recipe)
    if args.check:
        _require_file(path, args.recipe)
        require_fresh(recipe, path)
        print(f"{path} is fresh")
        return 0
    print(f"wrote {write_lock(recipe, make_lock(recipe, fetched_model))}")
    if args.results:
        print(f"wrote {_write_results(recipe)}")
    return 0


def fetched_model(recipe: Recipe) -> Outputs:
    """The outputs of `fetch`: from the store, else fetched now."""
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.plan.snapshot import read_surroundings
    from runner.report.progress import Progress
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder
    from runner.verify.rederive import clean_place

    stages = stages_of(recipe, "fetch")
    with clean_place(cache_folder()) as place:
        run = RunFolder(place / "runs")
        with Progress(run.events, [stage.NAME for stage in stages], sys.stderr) as progress:
            (result,) = Execution(
                recipe=recipe,
                stages=stages,
                surroundings=read_surroundings(recipe, stages),
                store=Store(store_folder()),
                run=run,
                cache=cache_folder(),
                on_poll=progress.poll,
                say=progress.say,
            ).execute()
    return result.outputs


def _require_file(path: Path, recipe: Path) -> None:
    from runner.errors import LockStale

    if not path.is_file():
        raise LockStale(f"there is no {path}", hint=f"write it: recipe lock {recipe}", code="E802")


def _write_results(recipe: Recipe) -> Path:
    from runner.execution.run_folder import runs_folder
    from runner.lock.results import write_results
    from runner.verify.run import open_run

    return write_results(recipe, open_run(runs_folder(recipe.project_root, recipe.name)))
