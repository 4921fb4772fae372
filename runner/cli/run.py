"""`recipe run`: plan, execute, and say at the end what came out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.plan.plan import Action, Step, make_plan

if TYPE_CHECKING:
    from runner.execution.execute import Execution
    from runner.plan.snapshot import Snapshot
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage
    from runner.store.store import Store

HELP = "Run a recipe to the end. What is already there is reused; an interrupted training goes on."
EXAMPLE = "recipe run recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe run`."""
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument("recipe", type=Path, help="the recipe file")
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument("--until", choices=ORDER, metavar="STAGE", help="stop after this stage")
    parser.add_argument(
        "--no-wait", action="store_true", help="exit 6 instead of waiting for another run"
    )
    parser.add_argument(
        "--locked", action="store_true", help="exit 5 unless a fresh lock pins every input"
    )
    parser.add_argument(
        "--paranoid",
        action="store_true",
        help="hash every input and stored result again, whatever its size and time say",
    )
    parser.add_argument(
        "--verify-twice",
        action="store_true",
        help="then do everything again in a clean place and compare every byte (exit 7)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Run the recipe; exit code 0 when every stage is done."""
    from runner.cli.plan import say_warnings
    from runner.execution.revisions import pin_revisions
    from runner.lock.locking import lock_of_run
    from runner.plan.snapshot import take_snapshot
    from runner.recipe.load import load_recipe
    from runner.stages import stages_of
    from runner.store.known_digests import forget
    from runner.store.store import Store
    from runner.system.folders import store_folder

    started = time.monotonic()
    if args.paranoid:
        forget()
    recipe = load_recipe(args.recipe, warn=say_warnings)
    recipe = pin_revisions(recipe, _runs(recipe), _say)
    lock = None  # which pins the real model: no lock says anything of a twin
    if args.shrink:
        recipe = _twin(recipe, args)
    else:
        lock = lock_of_run(recipe, required=args.locked, warn=_warn)
    runs = _runs(recipe)
    stages = stages_of(recipe, args.until)
    store = Store(store_folder(), paranoid=args.paranoid)
    snapshot = take_snapshot(recipe, stages, store, runs)
    steps = make_plan(recipe, stages, snapshot)
    if shown := up_to_date(steps, runs):
        _say_up_to_date(args, shown, time.monotonic() - started)
    else:
        shown = _execute(args, recipe, stages, store, snapshot, lock)
    if lock is not None:
        compare_with_expected(recipe, shown, required=args.locked)
    return _verify(args, shown) if args.verify_twice else 0


def _twin(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The shrunken twin. Raises UsageError with --locked."""
    from runner.errors import UsageError
    from runner.recipe.shrink import shrink_recipe

    if args.locked:
        raise UsageError(
            "--locked and --shrink exclude each other: a lock pins the real model",
            hint="leave one of the two out",
        )
    return shrink_recipe(recipe)


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def up_to_date(steps: list[Step], runs: Path) -> Path | None:
    """The newest run's folder, when it shows exactly what this plan would show again."""
    from runner.execution.run_folder import latest_run
    from runner.plan.snapshot import previous_keys

    if any(step.action is not Action.REUSE for step in steps):
        return None
    latest = latest_run(runs)
    if latest is None or previous_keys(runs) != {step.stage: step.key for step in steps}:
        return None
    return latest


def _runs(recipe: Recipe) -> Path:
    from runner.execution.run_folder import runs_folder

    return runs_folder(recipe.project_root, recipe.name)


def compare_with_expected(recipe: Recipe, folder: Path, *, required: bool) -> None:
    """Say whether the run gave what is expected on this platform, where that is written down.

    Raises NotReproduced (exit 7) when it did not and `required`.
    """
    from runner.lock.results import unexpected
    from runner.verify.run import open_run

    run = open_run(folder)
    if (found := unexpected(recipe, run)) is None:
        return
    if not found:
        print(f"as expected on {run.record['platform']['name']}, byte for byte", file=sys.stderr)
    elif required:
        from runner.errors import NotReproduced

        raise NotReproduced(
            f"the run is not what the lock expects on this platform: {found[0]}",
            hint="the run is kept; see docs/reproducibility.md",
            entries=found[1:],
        )
    else:
        _warn(f"not as expected on this platform: {found[0]}")


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _verify(args: argparse.Namespace, folder: Path) -> int:
    from runner.cli.verify import verify
    from runner.verify.run import open_run

    return verify(open_run(folder), "train", args.format)


def _say_up_to_date(args: argparse.Namespace, folder: Path, seconds: float) -> None:
    if args.format == "json":
        print(json.dumps({"schema": 1, "state": "up-to-date", "run": str(folder)}))
        return
    from runner.report.summary import talk_command

    print(f"Everything is up to date ({seconds:.1f} s). The results are in {folder}")
    if command := talk_command(folder):
        print(f"Talk to the model:  {command}")


def _execute(
    args: argparse.Namespace,
    recipe: Recipe,
    stages: list[Stage],
    store: Store,
    snapshot: Snapshot,
    lock: Mapping[str, Any] | None,
) -> Path:
    """Run the stages, say what came out, and return the run's folder."""
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.lock.locking import outputs_checker
    from runner.recipe.shrink import NOTICE
    from runner.report.progress import Progress
    from runner.system.folders import cache_folder

    run = RunFolder(_runs(recipe))
    with Progress(run.events, [stage.NAME for stage in stages], sys.stderr) as progress:
        execution = Execution(
            recipe=recipe,
            stages=stages,
            surroundings=snapshot.surroundings,
            store=store,
            run=run,
            cache=cache_folder(),
            wait=not args.no_wait,
            on_poll=progress.poll,
            say=progress.say,
            check_outputs=outputs_checker(lock),
            until=args.until,
        )
        if recipe.shrink is not None:
            progress.say(NOTICE)
        execution.execute()
    _print_result(args, execution)
    return run.path


def _print_result(args: argparse.Namespace, execution: Execution) -> None:
    from runner.report.summary import render_summary, summary

    result = summary(execution.run.path)
    if args.format == "json":
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        render_summary(result, sys.stdout)
