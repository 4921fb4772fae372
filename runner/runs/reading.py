"""What a command line asks to run: its recipes, read, pinned, as twins where asked; their locks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.execution.chain import own_runs
from runner.report.beside import say, warn

if TYPE_CHECKING:
    from runner.errors import RecipeToolError
    from runner.plan.chain import Parts
    from runner.recipe.model import Recipe
    from runner.runs.several import Job


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """What a command line asks for, read and pinned; nothing is planned.

    Raises RecipeInvalid with what is wrong with any of the recipes.
    """
    from runner.bundle.archive import is_bundle
    from runner.recipe.load import UNPINNED
    from runner.report.reporters import print_beside
    from runner.runs.several import Job, chosen, naming, read_all, refuse_shared_runs
    from runner.stages import stages_of

    asked = chosen(args, say)
    if is_bundle(asked[0].recipe):
        found: list[tuple[Recipe, Mapping[str, Any] | None]] = [unpacked(asked[0])]
        _refuse_to_wait_for_nobody(args, found[0][0])
    else:
        errors = UNPINNED if args.locked else ()
        paths = [each.recipe for each in asked]
        recipes = read_all(paths, args.set, errors, print_beside)
        refuse_shared_runs(recipes)
        found = []
        for each, recipe in zip(asked, recipes, strict=True):
            with naming(each):
                _refuse_to_wait_for_nobody(args, recipe)
                found.append(_settled(each, recipe))
    return [
        Job(each, recipe, lock, stages_of(recipe, each.until))
        for each, (recipe, lock) in zip(asked, found, strict=True)
    ]


def loaded(args: argparse.Namespace) -> tuple[Recipe, Mapping[str, Any] | None]:
    """The recipe in a file, and the lock that it goes by, if any."""
    from runner.recipe.load import UNPINNED, load_recipe
    from runner.report.reporters import print_beside

    errors = UNPINNED if args.locked else ()
    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set, errors=errors)
    return _settled(args, recipe)


def _settled(args: argparse.Namespace, recipe: Recipe) -> tuple[Recipe, Mapping[str, Any] | None]:
    """`recipe` as it is run: pinned, shrunken where asked; and the lock that it goes by, if any."""
    from runner.execution.published_twin import recorded
    from runner.lock.locking import lock_of_run
    from runner.recipe.shrink import shrink_recipe

    given = recipe
    recipe = _pinned(args, recipe)
    lock = None  # which pins the recipe as it is written: it says nothing of a twin or a change
    _refuse_with_locked(args)
    if args.shrink:
        recipe = recorded(shrink_recipe(recipe), given)
    elif not args.set:
        lock = lock_of_run(recipe, required=args.locked, warn=warn)
    return recipe, lock


def _pinned(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """`recipe` with commits of the hub, which is not asked for a training that cannot be here.

    What a run has trained before may be stored: then it is asked, and the plan decides. What the
    machine lacks is said where nothing is planned.
    """
    from runner.errors import RecipeToolError
    from runner.execution.published_twin import NO_ACCESS, is_closed
    from runner.execution.revisions import asks_hub, pin_revisions
    from runner.recipe.base_recipe import innermost

    parts = _parts(args, recipe) if asks_hub(recipe) else []
    refused = _refusal(args, recipe, parts)
    if args.shrink and is_closed(innermost(recipe).model):
        recipe = _published(recipe, "it is given to those with a licence, and there is no token")
    try:
        return pin_revisions(recipe, own_runs(recipe), say)
    except RecipeToolError as error:
        published = recipe
        if args.shrink and not refused and error.code in NO_ACCESS:
            published = _published(recipe, error.message.split("\n")[0])
        if published is not recipe:
            return pin_revisions(published, own_runs(recipe), say)
        _tell_lacks(args, parts)
        raise refused or error from None


def _published(recipe: Recipe, why: str) -> Recipe:
    """`recipe` with published configs in place of models of the hub, where they are known."""
    from runner.execution.published_twin import without_hub
    from runner.recipe.base_recipe import innermost

    published = without_hub(recipe)
    if published is not recipe:
        say(
            f"{innermost(recipe).model.hub}: {why}; the twin is made of its published sizes, with "
            "a tokenizer of its own"
        )
    return published


def _parts(args: argparse.Namespace, recipe: Recipe) -> Parts:
    """What a run would take here; nothing where nothing is to be run, or only a small twin."""
    from runner.plan.chain import parts_of
    from runner.stages import stages_of

    if getattr(args, "command", "run") != "run" or args.get:
        return []
    return parts_of(recipe, stages_of(recipe, args.until))


def _refusal(args: argparse.Namespace, recipe: Recipe, parts: Parts) -> RecipeToolError | None:
    """What keeps one of `parts` from being trained here, where its results may be stored.

    Raises that of one that nothing is stored of.
    """
    from runner.execution.before_hub import may_be_stored, refusal

    load = not (args.shrink or getattr(args, "no_preflight", False))
    perhaps = None
    for each, stages in parts:
        # who joins, joins the recipe that is named: see refuse_other_machines
        met = args.rendezvous if each is recipe else ("", 0)
        found = refusal(each, [stage.NAME for stage in stages], met, load=load)
        if found is None:
            continue
        if not may_be_stored(own_runs(each)):
            _tell_lacks(args, parts)
            raise found
        perhaps = perhaps or found
    return perhaps


def _tell_lacks(args: argparse.Namespace, parts: Parts) -> None:
    """What the machine lacks for `parts`, which a twin would need little of."""
    from runner.execution.before_hub import lacks_of

    for lack in [] if args.shrink else lacks_of(parts):
        warn(lack)


def unpacked(args: argparse.Namespace) -> tuple[Recipe, Mapping[str, Any]]:
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
    say(f"the inputs of {args.recipe.name} are in {folder}")
    return recipe, require_fresh(recipe, recipe.source.path, args.recipe)


def _refuse_to_wait_for_nobody(args: argparse.Namespace, recipe: Recipe) -> None:
    """Raises UsageError (E957) where --rendezvous is given and one machine trains."""
    from runner.errors import UsageError
    from runner.recipe.compared_recipes import all_recipes

    if args.rendezvous is None or any(each.train.nodes > 1 for each in all_recipes(recipe)):
        return
    raise UsageError(
        "--rendezvous is where other machines come, and this recipe is trained by one",
        hint="add --nodes 2 (that is --set train.nodes=2), or leave --rendezvous out",
        code="E957",
    )


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
