"""Several recipes in one command: which they are, and one after the other.

All of them are read and planned before the first is run, so that what is wrong with the last is
not found when the others have computed for days.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import Interrupted, RecipeInvalid, RecipeToolError, UsageError

if TYPE_CHECKING:
    from runner.plan.chain import Link
    from runner.recipe.model import Recipe
    from runner.report.diagnostic import Diagnostic
    from runner.report.told import Told
    from runner.stages.contract import Stage

Say = Callable[[str], None]
# of `recipe run`: options that say something of one recipe
_OF_ONE = ("into", "rendezvous", "trust_bundled_code")


@dataclass
class Job:
    """One recipe of a command. `args` are the command's, with this one as `recipe`.

    `links`: the plans of all recipes that it takes, its own last; `shown`: the folder of its newest
    run, where all of that is up to date. `compared`: the plans of each recipe that it is compared
    with, where its own run gets so far.
    """

    args: argparse.Namespace
    recipe: Recipe
    lock: Mapping[str, Any] | None
    stages: list[Stage]
    links: list[Link] = field(default_factory=list)
    shown: Path | None = None
    compared: list[list[Link]] = field(default_factory=list)

    @property
    def compares(self) -> bool:
        """Is there to be a page beside the results?"""
        from runner.plan.chain import compared_in

        return bool(compared_in(self.recipe, self.stages))

    @property
    def all_links(self) -> list[Link]:
        """Also of the recipes that it is compared with, which are run first."""
        return [link for chain in (*self.compared, self.links) for link in chain]

    @property
    def idle(self) -> bool:
        """Is there nothing to compute?"""
        return self.shown is not None and all(each.finished for each in self.all_links)


def chosen(args: argparse.Namespace, say: Say) -> list[argparse.Namespace]:
    """`args` once for each recipe that they name, as `recipe`; `say` is told what is left out.

    A shell's pattern names more than recipes to run: of several files, locks beside their recipe,
    bases and recipes of data are left out. Raises UsageError (E002) for what is of one recipe only.
    """
    paths = once_each(args.recipes)
    if len(paths) > 1:
        _refuse_what_is_of_one(args, paths)
        paths = _to_run(paths, say)
    shared = {**vars(args), "recipes": paths}
    return [argparse.Namespace(**shared, recipe=path) for path in paths]


@contextlib.contextmanager
def naming(args: argparse.Namespace) -> Iterator[None]:
    """Of several recipes, say which one an error is of that nothing was run for."""
    try:
        yield
    except RecipeToolError as error:
        if len(args.recipes) > 1:
            error.add_note(f"that is of {args.recipe}; none of the recipes was begun")
        raise


def once_each(paths: Sequence[Path]) -> list[Path]:
    """In the order given; a file by two names is one."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _refuse_what_is_of_one(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    from runner.bundle.archive import is_bundle

    said = [f"--{name.replace('_', '-')}" for name in _OF_ONE if getattr(args, name, None)]
    said += [f"the bundle {path}" for path in paths if is_bundle(path)]
    if said:
        raise UsageError(
            f"{said[0]} is of one recipe, and this command names {len(paths)}",
            hint="run that recipe by a command of its own",
        )


def _to_run(paths: Sequence[Path], say: Say) -> list[Path]:
    """Those that `recipe run` can run; all of them where that is none, for their own errors."""
    why = {path: _why_not(path, paths) for path in paths}
    left = [path for path in paths if not why[path]]
    if not left:
        return list(paths)
    for path in paths:
        if why[path]:
            say(f"left out: {path} {why[path]}")
    return left


def _why_not(path: Path, others: Sequence[Path]) -> str:
    """Why a file that a pattern named is not run; "" for a recipe, and for what has an error."""
    from runner.lock.file import is_lock, recipe_path
    from runner.recipe.source import read_source

    if is_lock(path):
        recipe = os.path.realpath(recipe_path(path))
        beside = any(os.path.realpath(other) == recipe for other in others)
        return f"is the lock of {recipe_path(path)}, which goes by it" if beside else ""
    try:
        data = read_source(path).data
    except RecipeInvalid:
        return ""
    if not isinstance(data, dict):
        return ""
    if data.get("abstract") is True:
        return "is abstract: it is there to be extended"
    if "synthesis" in data and "train" not in data:
        return f"makes rows of data: recipe data synthesize {shlex.quote(str(path))} -o rows.jsonl"
    return ""


def read_all(
    paths: Sequence[Path],
    overrides: Sequence[str],
    errors: Collection[str],
    warn: Callable[[list[Diagnostic]], None],
) -> list[Recipe]:
    """The recipe of each file, with what `--set` says; as `load_recipe` reads one.

    Raises RecipeInvalid with what is wrong with all of them.
    """
    from runner.recipe.load import as_errors, check_recipe
    from runner.report.diagnostic import each_once, has_errors

    checked = {path: check_recipe(path, overrides) for path in paths}
    found = {path: as_errors(said, errors) for path, (_, said) in checked.items()}
    diagnostics = sorted(each_once(found), key=lambda diagnostic: diagnostic.sort_key)
    recipes = [recipe for recipe, _ in checked.values() if recipe is not None]
    if len(recipes) < len(paths) or has_errors(diagnostics):
        raise RecipeInvalid(diagnostics)
    warn(diagnostics)
    return recipes


def refuse_shared_runs(recipes: Sequence[Recipe]) -> None:
    """Raise RecipeInvalid (E280) where the runs of two files would lie in one folder.

    Each would take the other's newest run for its own, and never be up to date.
    """
    from runner.execution.run_folder import runs_folder
    from runner.recipe.compared_recipes import all_recipes
    from runner.report.printable import quoted

    owners: dict[Path, Recipe] = {}
    problems: list[Diagnostic] = []
    for outer in recipes:
        for recipe in all_recipes(outer):
            file = recipe.source.path
            owner = owners.setdefault(runs_folder(recipe.project_root, recipe.name), recipe)
            if owner.source.path.resolve() == file.resolve():
                continue
            name = quoted(recipe.name, 80)
            message = f"{owner.source.path} also has the name {name}: the runs of both would lie "
            message += f"in runs/{recipe.name}"
            hint = "give one of them another name"
            problems.append(outer.source.diagnostic("E280", "/name", message, hint=hint))
    if problems:
        raise RecipeInvalid(list(dict.fromkeys(problems)))


def refuse_other_machines(job: Job) -> None:
    """Raise UsageError (E952) where a recipe that it is compared with would wait for machines.

    They join the recipe that the command names, and no other.
    """
    from runner.plan.plan import Action

    for link in (link for chain in job.compared for link in chain):
        trains = any(
            each.stage == "train" and each.action is not Action.REUSE for each in link.steps
        )
        if trains and link.recipe.train.nodes > 1:
            raise UsageError(
                f"the recipe {link.recipe.name}, which {job.recipe.name} is compared with, is "
                "trained by several machines, and these join one recipe alone",
                hint=f"train it first: recipe run {link.recipe.source.path} --rendezvous HOST:PORT",
                code="E952",
            )


def one_after_the_other(
    jobs: Sequence[Job], run: Callable[[Job], int], told: Told, say: Say
) -> int:
    """Run the recipes in their order, until one fails; its exit code, or 0.

    What `run` raises is raised, with a note of what was done and what was not begun.
    """
    for number, job in enumerate(jobs):
        told.begin(str(job.args.recipe))
        if len(jobs) > 1:
            say(f"recipe {number + 1} of {len(jobs)}: {job.args.recipe}")
        try:
            code = run(job)
        except BaseException as raised:
            error = Interrupted(signal.SIGINT) if type(raised) is KeyboardInterrupt else raised
            told.state(*_ending(error))
            _end(jobs, number, told, error.add_note)
            raise error from None
        if code:
            _end(jobs, number, told, say)
            return code
    return 0


def _ending(error: BaseException) -> tuple[str, dict[str, str]]:
    """The state of a recipe that `error` ended, and what there is to say of it."""
    if isinstance(error, Interrupted):
        return "interrupted", {}
    code, message = getattr(error, "code", "E003"), getattr(error, "message", str(error))
    return "failed", {"code": str(code), "message": str(message)}


def _end(jobs: Sequence[Job], number: int, told: Told, say: Say) -> None:
    """Say how far the recipes have come, where the one of that number is the last."""
    from runner.runs.again import words_of

    if len(jobs) == 1:
        return
    files = [shlex.quote(str(job.args.recipe)) for job in jobs]
    lines = [f"ended with {files[number]}, recipe {number + 1} of {len(jobs)}"]
    lines += [f"  done:      {' '.join(files[:number])}"] if number else []
    lines += [f"  not begun: {' '.join(files[number + 1 :])}"] if files[number + 1 :] else []
    lines += [f"  to go on, what is done is reused: {shlex.join(words_of(jobs[0].args))}"]
    say("\n".join(lines))
    for job in jobs[number + 1 :]:
        told.begin(str(job.args.recipe))
        told.state("not-begun")
