"""`recipe run`: plan all recipes, execute one after the other, and say what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.plan.plan import Action, Step, make_plan
from runner.report.beside import say, warn

if TYPE_CHECKING:
    from runner.errors import NotReproduced
    from runner.execution.chain import BaseResult
    from runner.execution.execute import Execution, StageResult
    from runner.execution.machines.contract import Machines
    from runner.execution.run_folder import RunFolder
    from runner.plan.chain import Link
    from runner.plan.snapshot import Snapshot
    from runner.recipe.model import Recipe
    from runner.report.progress import Progress
    from runner.report.told import Told
    from runner.runs.background import Child
    from runner.runs.page import Page
    from runner.runs.several import Job
    from runner.stages.contract import Outputs, Stage
    from runner.store.store import Store

HELP = (
    "Run a recipe to the end. What is already there is reused; an interrupted training goes on. "
    "Of several, all are checked and planned before the first is run; they run in the order given."
)
EXAMPLE = "recipe run recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe run`."""
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument(
        "recipes",
        type=Path,
        nargs="+",
        metavar="RECIPE",
        help="the recipe file, its lock, or a bundle; or several recipes, one after the other",
    )
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
    overrides.add_nodes_option(parser)
    parser.add_argument(
        "--rendezvous",
        type=address_of,
        metavar="HOST:PORT",
        help="where this machine waits for the others (recipe join), by an address of its own",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def address_of(text: str) -> tuple[str, int]:
    from runner.execution.machines.meeting import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(args: argparse.Namespace) -> int:
    """Run the recipes; exit code 0 when every stage is done."""
    from runner.report.told import Told
    from runner.runs.reading import jobs_of
    from runner.runs.several import one_after_the_other
    from runner.store import known_digests
    from runner.store.store import Store
    from runner.system import offline
    from runner.system.folders import store_folder

    if args.offline:
        offline.forbid()
    if args.paranoid:
        known_digests.forget()
    jobs = jobs_of(args)
    if args.get:
        return _get(jobs)
    store = Store(store_folder(), paranoid=args.paranoid)
    _plan_all(jobs, store)
    stays = not args.detach or all(job.idle for job in jobs)
    background = None if stays else _split(jobs)
    if isinstance(background, int):
        return background
    with Told(args.format, several=len(jobs) > 1) as told:

        def run(job: Job) -> int:
            if job is not jobs[0]:
                _plan(job, store)  # those before it have filled the store
            return _run(job, store, background, told)

        return one_after_the_other(jobs, run, told, say)


def _plan_all(jobs: Sequence[Job], store: Store) -> None:
    """Plan every recipe, and raise what keeps any of them from being run here."""
    from runner.execution.device import require_device
    from runner.execution.ready import require_ready
    from runner.runs.several import naming, refuse_other_machines
    from runner.store import known_digests
    from runner.system.folders import cache_folder

    for job in jobs:
        with naming(job.args):
            _plan(job, store)
    known_digests.keep()
    for job in jobs:
        for link in job.all_links:
            with naming(job.args):
                require_device(link.recipe, link.steps)
    args = jobs[0].args
    if args.offline:
        todo = [(link.recipe, link.steps) for job in jobs for link in job.all_links]
        require_ready(todo, cache_folder(), _get_command(args), say)
    busy = [(job, link) for job in jobs if not job.idle for link in job.all_links]
    for _, link in busy:
        _warn_of_lacks(link.recipe, link.steps, named=len(busy) > 1)
    for job, link in busy:
        with naming(job.args):
            if not args.no_preflight:
                require_room(link.recipe, link.steps)
            refuse_other_machines(job)
            require_rendezvous(job.args, link.recipe, link.steps)


def _plan(job: Job, store: Store) -> None:
    """What a run would do now."""
    from runner.plan.chain import plan_chain, plan_compared

    job.compared = plan_compared(job.recipe, job.stages, store)
    job.links = plan_chain(job.recipe, job.stages, store)
    job.shown = up_to_date(job.links[-1].steps, runs_of(job.recipe))


def _split(jobs: Sequence[Job]) -> Child | int:
    """Who goes on in the background; the exit code of who stays at the terminal."""
    from runner.runs.again import words_of
    from runner.runs.background import Parent, split

    args = jobs[0].args
    found = split(words_of(args))
    return _say_in_background(args, found.wait()) if isinstance(found, Parent) else found


def _run(job: Job, store: Store, background: Child | None, told: Told) -> int:
    """Run one recipe whose plan is made; exit code 0, or 7 where it is not what it should be."""
    from runner.bundle.archive import is_bundle
    from runner.runs.page import page_of, run_compared

    args = job.args
    announce = background.announce if background else nothing

    def execute_until(link: Link, until: str) -> Path:
        return execute_chain(args, link, store, None, announce, until)

    beside = run_compared(job, store, execute_until, say)
    shown = job.shown or execute_chain(args, job.links[-1], store, job.lock, announce)
    page = page_of(shown, beside, store)
    if job.shown:
        _tell_up_to_date(told, shown, page)
    else:
        _tell_result(told, shown, page)
    for note in page.data["notes"] if page else ():
        warn(f"{note['code']}: {note['message']}")
    if is_bundle(args.recipe):
        _compare_with_bundle(job.recipe, shown)
    elif job.lock is not None:
        compare_with_expected(job.recipe, shown, required=args.locked)
    return _verify(shown, store, told) if args.verify_twice else 0


def _get_command(args: argparse.Namespace) -> str:
    return f"{_this_far(args)} --get"


def _this_far(args: argparse.Namespace) -> str:
    from runner.runs.again import named, typed_until

    return " ".join([f"recipe run {named(args)}", *typed_until(args)])


def _get(jobs: Sequence[Job]) -> int:
    """Download, and run nothing."""
    from runner.execution.ready import get_all
    from runner.plan.chain import compared_in, stages_to_compare
    from runner.system.folders import cache_folder

    for job in jobs:
        for other in compared_in(job.recipe, job.stages):
            get_all(other, stages_to_compare(other), cache_folder(), say)
        get_all(job.recipe, job.stages, cache_folder(), say)
    print(f"everything is here: {_this_far(jobs[0].args)} --offline")
    return 0


def _compare_with_bundle(recipe: Recipe, folder: Path) -> None:
    """Say whether the run gave what the bundle's gave. Raises NotReproduced (E700, exit 7)."""
    from runner.bundle.unpacked import compare_with_bundle
    from runner.report.printable import escaped

    compared = compare_with_bundle(recipe.folder, folder)
    found = compared.differences
    if not found and compared.platforms is not None:
        theirs, ours = map(escaped, compared.platforms)
        warn(
            f"W820: the bundle's run was on {theirs}, this is {ours}: equal bytes of a training "
            "are claimed on one platform only, so what was trained is not compared"
        )
    elif not found:
        say(f"the same bytes as in the bundle: manifest {compared.manifest_sha256}")
    else:
        raise _not_reproduced("the run is not what the bundle holds", found)


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
    if len(args.recipes) > 1:
        print("  recipe ls shows the runs of the other recipes, as they come")
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
    """Raise UsageError (E952) when more machines are to train, and cannot know where to meet.

    Where only this machine itself could come, it is warned.
    """
    from runner.execution.machines.contract import NO_ADDRESS
    from runner.system.local_server import is_loopback

    trains = any(step.stage == "train" and step.action is not Action.REUSE for step in steps)
    if recipe.train.nodes == 1 or not trains:
        return
    if args.rendezvous is None:
        raise NO_ADDRESS
    if is_loopback(args.rendezvous[0]):
        warn(
            f"{args.rendezvous[0]} is a loopback address, which no other machine can reach: give "
            "--rendezvous the one that this machine has on the link to the others (ip -brief "
            "address)"
        )


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


def require_room(recipe: Recipe, steps: list[Step]) -> None:
    """Raise MachineCannot (E940) when a model is to be trained that is larger than all memory."""
    from runner.execution.preflight import too_large

    trains = any(step.stage == "train" and step.action is not Action.REUSE for step in steps)
    if trains and (error := too_large(recipe)):
        raise error


def _warn_of_lacks(recipe: Recipe, steps: list[Step], *, named: bool = False) -> None:
    """What `recipe plan` says is missing, but for what the run gets by itself.

    `named`: with the recipe's name before it?
    """
    from runner.execution.lacks import lacks
    from runner.plan.cost import cost_here
    from runner.system.folders import cache_folder

    cost = cost_here(recipe, steps, runs_of(recipe))
    for lack in lacks(recipe, steps, cost, cache_folder()):
        if not lack.mends_itself:
            warn(f"{recipe.name} {lack}" if named else str(lack))


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
        warn(f"not as expected on this platform: {found[0]}")


def _not_reproduced(what: str, found: Sequence[str]) -> NotReproduced:
    from runner.errors import NotReproduced

    return NotReproduced(
        f"{what}: {found[0]}",
        hint="the run is kept; see docs/reproducibility.md",
        entries=found[1:],
    )


def _verify(folder: Path, store: Store, told: Told) -> int:
    """Prove the run at the strongest level; 7 when it is not reproduced."""
    from runner.execution.display import show_progress
    from runner.report import proof as report
    from runner.system.folders import cache_folder
    from runner.verify.prove import prove
    from runner.verify.run import open_run

    proof = prove(
        open_run(folder),
        "train",
        store,
        cache_folder(),
        on_file=report.show_count,
        open_display=show_progress,
    )
    told.proof(report.as_data(proof), lambda: print("\n".join(report.as_lines(proof))))
    return 0 if proof.holds else 7


def _tell_up_to_date(told: Told, folder: Path, page: Page | None) -> None:
    def in_words() -> None:
        from runner.report.summary import talk_command

        print(f"Everything is up to date ({told.seconds():.1f} s). The results are in {folder}")
        if command := talk_command(folder):
            print(f"Talk to the model:  {command}")
        if page:
            page.show()

    compare = {"compare": page.as_data()} if page else {}
    told.result({"schema": 1, "state": "up-to-date", "run": str(folder), **compare}, in_words)


def execute_chain(
    args: argparse.Namespace,
    link: Link,
    store: Store,
    lock: Mapping[str, Any] | None,
    on_start: Callable[[RunFolder], None],
    until: str | None = None,
) -> Path:
    """Run what is missing of the recipes that `link` starts from, then its own stages.

    Returns its run's folder: the newest one's where the others gave again what they had given.
    `on_start` is told the folder of the first run. `until`: where the recipe is not run as far as
    the command says.
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
        last = stages[-1].NAME
        say(f"first the recipe {base.name}, for {link.recipe.name}")
        return execute(args, base, stages, store, snapshot, None, starts, before, last).results

    recipe, stages, snapshot = link.recipe, link.stages, link.snapshot
    base = ensure_base(recipe, store, run_base)
    if base is not None:
        snapshot = take_snapshot(recipe, stages, store, link.runs, base.given())
        if shown := up_to_date(make_plan(recipe, stages, snapshot), link.runs):
            return shown
    until = until or args.until
    done = execute(args, recipe, stages, store, snapshot, lock, starts, base, until)
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
                warn(warning)


def _tell_result(told: Told, folder: Path, page: Page | None) -> None:
    from runner.report.summary import render_summary, summary

    result = summary(folder)
    _warn_of_split(result)

    def in_words() -> None:
        render_summary(result, sys.stdout)
        if page:
            page.show()

    told.result({**result, **({"compare": page.as_data()} if page else {})}, in_words)
