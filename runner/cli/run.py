"""`recipe run`: plan, execute, and say at the end what came out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.plan.plan import Action, Step, make_plan

if TYPE_CHECKING:
    from runner.errors import NotReproduced, RecipeToolError
    from runner.execution.chain import BaseResult
    from runner.execution.execute import Execution, StageResult
    from runner.execution.machines.contract import Machines
    from runner.execution.run_folder import RunFolder
    from runner.plan.chain import Link
    from runner.plan.snapshot import Snapshot
    from runner.recipe.model import Recipe
    from runner.report.progress import Progress
    from runner.stages.contract import Outputs, Stage
    from runner.store.store import Store

HELP = "Run a recipe to the end. What is already there is reused; an interrupted training goes on."
EXAMPLE = "recipe run recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe run`."""
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument("recipe", type=Path, help="the recipe file, its lock, or a bundle")
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument("--until", choices=ORDER, metavar="STAGE", help="stop after this stage")
    parser.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="go on in the background, also when the terminal is closed (recipe ls, logs, stop)",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="exit 6 instead of waiting for another run"
    )
    parser.add_argument(
        "--no-preflight", action="store_true", help="load a model whatever memory there is"
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
    parser.add_argument(
        "--offline",
        action="store_true",
        help="use no network; say before anything runs what would have to be downloaded (exit 4)",
    )
    parser.add_argument(
        "--get",
        action="store_true",
        help="get what --offline needs (environments, tools, model, data), and run nothing",
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="where to unpack a bundle (default: its name)"
    )
    parser.add_argument(
        "--trust-bundled-code",
        action="store_true",
        help="let the Python code run that a bundle holds for a model with trust_remote_code",
    )
    parser.add_argument(
        "--nodes",
        dest="set",
        action="append",
        type="train.nodes={}".format,
        metavar="N",
        help="machines that train together: short for --set train.nodes=N",
    )
    parser.add_argument(
        "--rendezvous",
        type=address_of,
        metavar="HOST:PORT",
        help="where this machine waits for the others (recipe join), by an address of its own",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def address_of(text: str) -> tuple[str, int]:
    from runner.execution.machines.meeting import parse_address

    return parse_address(text)


def main(args: argparse.Namespace) -> int:
    """Run the recipe; exit code 0 when every stage is done."""
    from runner.bundle.archive import is_bundle
    from runner.execution.device import require_device
    from runner.plan.chain import plan_chain
    from runner.runs.again import words_of
    from runner.runs.background import Parent, split
    from runner.stages import stages_of
    from runner.store import known_digests
    from runner.store.store import Store
    from runner.system import offline
    from runner.system.folders import cache_folder, store_folder

    started = time.monotonic()
    if args.offline:
        offline.forbid()
    if args.paranoid:
        known_digests.forget()
    bundled = is_bundle(args.recipe)
    recipe, lock = (_unpacked if bundled else loaded)(args)
    runs = runs_of(recipe)
    stages = stages_of(recipe, args.until)
    if args.get:
        return _get(args, recipe, stages)
    store = Store(store_folder(), paranoid=args.paranoid)
    links = plan_chain(recipe, stages, store)
    known_digests.keep()
    for link in links:
        require_device(link.recipe, link.steps)
    if args.offline:
        from runner.execution.ready import require_ready

        todo = [(link.recipe, link.steps) for link in links]
        require_ready(todo, cache_folder(), _get_command(args), _say)
    if shown := up_to_date(links[-1].steps, runs):
        _say_up_to_date(args, shown, time.monotonic() - started)
    else:
        for link in links:
            _warn_of_lacks(link.recipe, link.steps)
            require_rendezvous(args, link.recipe, link.steps)
        background = split(words_of(args)) if args.detach else None
        if isinstance(background, Parent):
            return _say_in_background(args, background.wait())
        announce = background.announce if background else nothing
        shown = execute_chain(args, links[-1], store, lock, announce)
        _print_result(args, shown)
    if bundled:
        _compare_with_bundle(recipe, shown)
    elif lock is not None:
        compare_with_expected(recipe, shown, required=args.locked)
    return _verify(args, shown, store) if args.verify_twice else 0


def loaded(args: argparse.Namespace) -> tuple[Recipe, Mapping[str, Any] | None]:
    """The recipe in a file, and the lock that it goes by, if any."""
    from runner.execution.published_twin import recorded
    from runner.lock.locking import lock_of_run
    from runner.recipe.load import UNPINNED, load_recipe
    from runner.recipe.shrink import shrink_recipe
    from runner.report.reporters import print_beside

    errors = UNPINNED if args.locked else ()
    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set, errors=errors)
    given = recipe
    recipe = _pinned(args, recipe)
    lock = None  # which pins the recipe as it is written: it says nothing of a twin or a change
    _refuse_with_locked(args)
    if args.shrink:
        recipe = recorded(shrink_recipe(recipe), given)
    elif not args.set:
        lock = lock_of_run(recipe, required=args.locked, warn=_warn)
    return recipe, lock


def _pinned(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """`recipe` with commits of the hub, which is not asked for a training that cannot be here.

    What a run has trained before may be stored: then it is asked, and the plan decides.
    """
    from runner.errors import RecipeToolError
    from runner.execution.before_hub import may_be_stored
    from runner.execution.published_twin import NO_ACCESS, is_closed
    from runner.execution.revisions import asks_hub, pin_revisions
    from runner.recipe.base_recipe import innermost

    refused = _refusal(args, recipe) if asks_hub(recipe) else None
    if refused and not may_be_stored(runs_of(recipe)):
        raise refused
    if args.shrink and is_closed(innermost(recipe).model):
        recipe = _published(recipe, "it is given to those with a licence, and there is no token")
    try:
        return pin_revisions(recipe, runs_of(recipe), _say)
    except RecipeToolError as error:
        if refused:
            raise refused from None
        if not args.shrink or error.code not in NO_ACCESS:
            raise
        published = _published(recipe, error.message.split("\n")[0])
        if published is recipe:
            raise
        return pin_revisions(published, runs_of(recipe), _say)


def _published(recipe: Recipe, why: str) -> Recipe:
    """`recipe` with published configs in place of models of the hub, where they are known."""
    from runner.execution.published_twin import without_hub
    from runner.recipe.base_recipe import innermost

    published = without_hub(recipe)
    if published is not recipe:
        _say(
            f"{innermost(recipe).model.hub}: {why}; the twin is made of its published sizes, with "
            "a tokenizer of its own"
        )
    return published


def _refusal(args: argparse.Namespace, recipe: Recipe) -> RecipeToolError | None:
    from runner.execution.before_hub import refusal
    from runner.stages import stages_of

    if getattr(args, "command", "run") != "run" or args.get:
        return None
    names = [stage.NAME for stage in stages_of(recipe, args.until)]
    return refusal(recipe, names, args.rendezvous)


def _unpacked(args: argparse.Namespace) -> tuple[Recipe, Mapping[str, Any]]:
    """The recipe in a bundle, unpacked beside us, and its lock. Sets `until` as the run had it."""
    from runner.bundle.archive import open_archive
    from runner.bundle.unpacked import locked_recipe, require_fresh, unpack_inputs, until_of
    from runner.errors import UsageError
    from runner.system.folders import cache_folder

    if args.shrink:
        raise UsageError("a bundle pins the real model; --shrink is for recipes")
    if args.set:
        raise UsageError(
            "a bundle pins every value; --set is for recipes",
            hint="set the value on the recipe that the bundle was made of",
            code="E133",
        )
    with open_archive(args.recipe) as archive:
        folder = args.into or Path(archive.index.title)
        unpack_inputs(archive, folder, cache_folder(), trust_code=args.trust_bundled_code)
        recipe = locked_recipe(archive, folder)
    if args.until is None:
        args.until, args.until_of_bundle = until_of(folder), True
    _say(f"the inputs of {args.recipe.name} are in {folder}")
    return recipe, require_fresh(recipe, recipe.source.path, args.recipe)


def _get_command(args: argparse.Namespace) -> str:
    return f"{_this_far(args)} --get"


def _this_far(args: argparse.Namespace) -> str:
    from runner.runs.again import named, typed_until

    return " ".join([f"recipe run {named(args)}", *typed_until(args)])


def _get(args: argparse.Namespace, recipe: Recipe, stages: list[Stage]) -> int:
    """Download, and run nothing."""
    from runner.execution.ready import get_all
    from runner.system.folders import cache_folder

    get_all(recipe, stages, cache_folder(), _say)
    print(f"everything is here: {_this_far(args)} --offline")
    return 0


def _compare_with_bundle(recipe: Recipe, folder: Path) -> None:
    """Say whether the run gave what the bundle's gave. Raises NotReproduced (E700, exit 7)."""
    from runner.bundle.unpacked import compare_with_bundle
    from runner.report.printable import escaped

    compared = compare_with_bundle(recipe.folder, folder)
    found = compared.differences
    if not found and compared.platforms is not None:
        theirs, ours = map(escaped, compared.platforms)
        _warn(
            f"W820: the bundle's run was on {theirs}, this is {ours}: equal bytes of a training "
            "are claimed on one platform only, so what was trained is not compared"
        )
    elif not found:
        _say(f"the same bytes as in the bundle: manifest {compared.manifest_sha256}")
    else:
        raise _not_reproduced("the run is not what the bundle holds", found)


def _refuse_with_locked(args: argparse.Namespace) -> None:
    """Raises UsageError where the recipe is not run as it is written, and its lock is asked for."""
    from runner.errors import UsageError

    for name, given, what, code in (
        ("--shrink", args.shrink, "the real model", "E002"),
        ("--set", args.set, "the recipe as it is written", "E133"),
    ):
        if args.locked and given:
            raise UsageError(
                f"--locked and {name} exclude each other: a lock pins {what}",
                hint="leave one of the two out",
                code=code,
            )


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def nothing(told: Any) -> None:
    """Nobody has to be told, nothing is checked."""


def preflight(
    recipe: Recipe, say: Callable[[str], None], *, load: bool = True
) -> Callable[[Stage], int]:
    """What is checked before a stage computes; the bytes of memory that it may use, 0: all.

    `load`: is it looked whether there is memory for its model?
    """
    from runner.execution.preflight import require_memory
    from runner.system import memory_limit

    if not load:
        return lambda stage: memory_limit.asked()
    return lambda stage: require_memory(stage, recipe, say)


def _say_in_background(args: argparse.Namespace, found: Path | int) -> int:
    """Where the run goes on; the exit code of one that did not begin."""
    if isinstance(found, int):
        return found if found >= 0 else 128 - found
    if args.format == "json":
        print(json.dumps({"schema": 1, "state": "running", "run": str(found)}))
        return 0
    print(f"it goes on in the background: {found}")
    for command in ("recipe status", "recipe logs -f", "recipe stop"):
        print(f"  {command} {found}")
    return 0


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


def require_rendezvous(args: argparse.Namespace, recipe: Recipe, steps: list[Step]) -> None:
    """Raise UsageError (E952) when more machines are to train, and cannot know where to meet."""
    from runner.execution.machines.contract import NO_ADDRESS

    trains = any(step.stage == "train" and step.action is not Action.REUSE for step in steps)
    if recipe.train.nodes > 1 and trains and args.rendezvous is None:
        raise NO_ADDRESS


def _machines(args: argparse.Namespace, recipe: Recipe, progress: Progress) -> Machines:
    """The others of a training by several machines, which this one waits for."""
    from runner.execution.machines.contract import NoMachines
    from runner.execution.machines.meeting import First
    from runner.runs.again import named

    if recipe.train.nodes == 1 or args.rendezvous is None:
        return NoMachines()
    host, port = args.rendezvous
    command = f"recipe join {named(args)} {host}:{port}"
    return First(args.rendezvous, recipe.train.nodes, command, progress.say, progress.poll)


def _warn_of_lacks(recipe: Recipe, steps: list[Step]) -> None:
    """What `recipe plan` says is missing, but for what the run gets by itself."""
    from runner.execution.lacks import lacks
    from runner.plan.cost import cost_here
    from runner.system.folders import cache_folder

    cost = cost_here(recipe, steps, runs_of(recipe))
    for lack in lacks(recipe, steps, cost, cache_folder()):
        if not lack.mends_itself:
            _warn(str(lack))


def runs_of(recipe: Recipe) -> Path:
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
        raise _not_reproduced("the run is not what the lock expects on this platform", found)
    else:
        _warn(f"not as expected on this platform: {found[0]}")


def _not_reproduced(what: str, found: Sequence[str]) -> NotReproduced:
    from runner.errors import NotReproduced

    return NotReproduced(
        f"{what}: {found[0]}",
        hint="the run is kept; see docs/reproducibility.md",
        entries=found[1:],
    )


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _verify(args: argparse.Namespace, folder: Path, store: Store) -> int:
    """Prove the run at the strongest level; 7 when it is not reproduced."""
    from runner.execution.display import show_progress
    from runner.report.proof import print_proof, show_count
    from runner.system.folders import cache_folder
    from runner.verify.prove import prove
    from runner.verify.run import open_run

    proof = prove(
        open_run(folder),
        "train",
        store,
        cache_folder(),
        on_file=show_count,
        open_display=show_progress,
    )
    print_proof(proof, args.format)
    return 0 if proof.holds else 7


def _say_up_to_date(args: argparse.Namespace, folder: Path, seconds: float) -> None:
    if args.format == "json":
        print(json.dumps({"schema": 1, "state": "up-to-date", "run": str(folder)}))
        return
    from runner.report.summary import talk_command

    print(f"Everything is up to date ({seconds:.1f} s). The results are in {folder}")
    if command := talk_command(folder):
        print(f"Talk to the model:  {command}")


def execute_chain(
    args: argparse.Namespace,
    link: Link,
    store: Store,
    lock: Mapping[str, Any] | None,
    on_start: Callable[[RunFolder], None],
) -> Path:
    """Run what is missing of the recipes that `link` starts from, then its own stages.

    Returns its run's folder: the newest one's where the others gave again what they had given.
    `on_start` is told the folder of the first run.
    """
    from runner.execution.chain import ensure_base
    from runner.plan.snapshot import take_snapshot

    started: list[RunFolder] = []

    def starts(run: RunFolder) -> None:
        if not started:
            on_start(run)
        started.append(run)

    def run_base(
        base: Recipe, stages: list[Stage], snapshot: Snapshot, before: BaseResult | None
    ) -> list[StageResult]:
        until = stages[-1].NAME
        _say(f"first the recipe {base.name}, for {link.recipe.name}")
        return execute(args, base, stages, store, snapshot, None, starts, before, until).results

    recipe, stages, snapshot = link.recipe, link.stages, link.snapshot
    base = ensure_base(recipe, store, run_base)
    if base is not None:
        snapshot = take_snapshot(recipe, stages, store, link.runs, base.given())
        if shown := up_to_date(make_plan(recipe, stages, snapshot), link.runs):
            return shown
    done = execute(args, recipe, stages, store, snapshot, lock, starts, base, args.until)
    return done.run.path


def execute(
    args: argparse.Namespace,
    recipe: Recipe,
    stages: list[Stage],
    store: Store,
    snapshot: Snapshot,
    lock: Mapping[str, Any] | None,
    on_start: Callable[[RunFolder], None],
    base: BaseResult | None,
    until: str | None,
    machines: Callable[[argparse.Namespace, Recipe, Progress], Machines] = _machines,
    afterwards: Callable[[Execution, Mapping[str, Outputs]], None] = lambda execution, known: None,
    beside: Sequence[Stage] = (),
) -> Execution:
    """Run the stages of one recipe, whose run's folder `on_start` is told first.

    `machines`: who trains together with this one; `afterwards`: as of Execution, and the stages
    `beside` that it shows.
    """
    from runner.errors import StageFailed
    from runner.execution.execute import Execution
    from runner.execution.out_of_memory import explain
    from runner.execution.published_twin import suggest
    from runner.execution.run_folder import RunFolder
    from runner.lock.locking import outputs_checker
    from runner.recipe.shrink import NOTICE
    from runner.report.progress import Progress
    from runner.runs.again import words_of
    from runner.system.folders import cache_folder

    run = RunFolder(runs_of(recipe))
    on_start(run)
    names = [stage.NAME for stage in [*stages, *beside]]
    with Progress(run.events, names, sys.stderr) as progress:
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
            open_machines=lambda: machines(args, recipe, progress),
            afterwards=afterwards,
            before_device=preflight(recipe, progress.say, load=not args.no_preflight),
            check_outputs=outputs_checker(lock),
            until=until,
            base=base,
            command=words_of(args),
        )
        if recipe.shrink is not None:
            progress.say(NOTICE)
        try:
            execution.execute()
        except StageFailed as error:
            explain(error, recipe, run.events)
            suggest(error, recipe)
            raise
    return execution


def _warn_of_split(result: Mapping[str, Any]) -> None:
    from runner.rows.prepared import split_warnings

    for stage in result["stages"]:
        if stage["name"] == "prepare":
            for warning in split_warnings(stage["measures"]):
                _warn(warning)


def _print_result(args: argparse.Namespace, folder: Path) -> None:
    from runner.report.summary import render_summary, summary

    result = summary(folder)
    _warn_of_split(result)
    if args.format == "json":
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        render_summary(result, sys.stdout)
