"""Unpack a bundle to be run, or to be proved, and read the locked recipe in it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.bundle.contents import FETCHED, INPUTS, MANIFEST_FILE, RECORD_FILE, is_of_model
from runner.bundle.given import given_by
from runner.bundle.index import BASE, FILE
from runner.bundle.texts import FILES, read_texts, require_texts
from runner.errors import LockStale, MachineCannot, UsageError
from runner.lock.file import read_lock
from runner.lock.of_run import FILE as LOCK_FILE
from runner.report.printable import escaped, quoted
from runner.stages import ORDER
from runner.store.atomic import fsync_folder, fsync_tree
from runner.store.locks import Lock

if TYPE_CHECKING:
    from runner.bundle.archive import Archive
    from runner.recipe.model import Recipe
    from runner.verify.run import Run


def unpack_inputs(archive: Archive, folder: Path, cache: Path, *, trust_code: bool = False) -> None:
    """Lock, manifest and inputs in `folder`, whole or not at all; kept when they are there.

    Raises UsageError when something else is there (E831), and whatever `admit` raises.
    """
    text = archive.index.text()
    lock = cache / "locks" / f"bundle-{archive.index.digest[:16]}.lock"
    with Lock(lock, f"unpacking {archive.path.name}"):
        if _is_unpacked(folder, text):
            return
        if os.path.lexists(folder):
            raise UsageError(
                f"{folder} is in the way: it is not this bundle, unpacked",
                hint="move it away, or name another folder with --into",
                code="E831",
            )
        require_texts(archive)
        names = [n for n in archive.index.files if n in FILES or n.startswith(f"{INPUTS}/")]
        partial = folder.with_name(f".{folder.name}-{archive.index.digest[:16]}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process: we hold the lock
        try:
            unpack(archive, names, partial)
            admit(archive, read_texts(archive, partial).lock, trust_code=trust_code)
            require_fresh(locked_recipe(archive, partial), partial / LOCK_FILE, archive.path)
            with _disk(folder):
                (partial / FILE).write_bytes(text)
                fsync_tree(partial)
                partial.rename(folder)
                fsync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _is_unpacked(folder: Path, text: bytes) -> bool:
    try:
        return (folder / FILE).read_bytes() == text
    except OSError:
        return False


def unpack(archive: Archive, names: Iterable[str], folder: Path) -> None:
    """Write members below the new folder `folder`. Raises MachineCannot (E830), UsageError."""
    names = sorted(names)
    size = sum(archive.index.files[name].size for name in names)
    with _disk(folder):
        folder.mkdir()
        free = shutil.disk_usage(folder).free
        if size > free:
            raise _no_space(folder, f"it needs {size} bytes, and {free} are free")
        for name in names:
            archive.unpack(name, folder / name)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Whatever the disk refuses below becomes MachineCannot (E830)."""
    try:
        yield
    except OSError as error:
        raise _no_space(folder, error.strerror or str(error)) from error


def _no_space(folder: Path, why: str) -> MachineCannot:
    return MachineCannot(
        f"the bundle cannot be unpacked to {folder}: {why}",
        hint="free some space, or name another disk: with --into for `recipe run`, with "
        "SPARK_RECIPES_CACHE for `recipe verify`",
        code="E830",
    )


def locked_recipe(archive: Archive, folder: Path) -> Recipe:
    """The recipe of the lock in `folder`, to which the bundle gives what would be fetched.

    Raises RecipeInvalid or LockStale for its lock.
    """
    from runner.recipe.load import load_recipe

    lock = read_lock(folder / LOCK_FILE)
    recipe = load_recipe(folder / LOCK_FILE)
    return replace(recipe, given=given_by(archive, lock))


def require_fresh(recipe: Recipe, lock: Path, archive: Path) -> dict[str, Any]:
    """The lock. Raises LockStale (E802): this machine cannot run what the bundle pins."""
    from runner.lock import locking

    try:
        return locking.require_fresh(recipe, lock)
    except LockStale as error:
        version = escaped(read_lock(lock)["runner"])
        error.hint = (
            f"run {archive.name} with Spark Recipes {version}, which made it; or, where files of "
            f"{lock.parent} were edited, remove that folder and run the bundle again"
        )
        raise


def admit(archive: Archive, lock: Mapping[str, Any], *, trust_code: bool) -> None:
    """Raises where the locked recipe must not be run.

    UsageError (E825) when it reads what is not in the bundle, (E832) when code of the bundle would
    run without `trust_code`; MachineCannot (E828) when the base model was left out.
    """
    require_inputs(archive, lock)
    model = lock["recipe"]["model"]
    bundled = any(name.startswith(f"{FETCHED}/fetch/") for name in archive.index.files)
    if model.get("trust_remote_code") and bundled and not trust_code:
        raise UsageError(
            f"{archive.path} holds Python code that would run with the model, and nothing proves "
            "that it is the code of the hub",
            hint="if you trust who made the bundle, add --trust-bundled-code",
            code="E832",
        )


def until_of(folder: Path) -> str | None:
    """The stage that the bundled run ended with, when it was told to."""
    record = json.loads((folder / RECORD_FILE).read_bytes())
    until: str | None = record["until"]
    return until


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside the bundle that it is of. `platforms`: the bundle's and ours where they differ.

    `differences`: one line a file; with two platforms only of what comes before anything that
    depends on one.
    """

    manifest_sha256: str
    differences: list[str]
    platforms: tuple[str, str] | None


def compare_with_bundle(bundle: Path, run: Path) -> Comparison:
    """The run in the folder `run` beside the bundle unpacked to `bundle`.

    A run that ended earlier than the bundle's is compared as far as it went.
    """
    there, here = ((folder / MANIFEST_FILE).read_bytes() for folder in (bundle, run))
    expected, found = (json.loads(text)["stages"] for text in (there, here))
    platforms = (_platform(expected), _platform(found))
    differ = all(platforms) and platforms[0] != platforms[1]
    compared = _before_platforms(expected) if differ else [s for s in ORDER if s in found]
    differences = [
        f"{stage}/{path}"
        for stage in compared
        for path in sorted({*expected.get(stage, {}), *found.get(stage, {})})
        if expected.get(stage, {}).get(path) != found.get(stage, {}).get(path)
    ]
    return Comparison(hashlib.sha256(here).hexdigest(), differences, platforms if differ else None)


def _platform(stages: Mapping[str, Any]) -> str:
    """The platform that a manifest names; "" when nothing in it depends on one."""
    named = (facts.get("platform") for files in stages.values() for facts in files.values())
    return next(filter(None, named), "")


def _before_platforms(stages: Mapping[str, Any]) -> list[str]:
    """The stages that come before the first whose bytes depend on the platform."""
    listed = [stage for stage in ORDER if stage in stages]
    portable = itertools.takewhile(lambda stage: not _platform({stage: stages[stage]}), listed)
    return list(portable)


def require_inputs(archive: Archive, lock: Mapping[str, Any]) -> None:
    """Every file that the lock names is in the bundle, and nothing else is read by it."""
    absent = [name for name in lock["files"] if name not in archive.index.files]
    if BASE in archive.index.left_out and any(is_of_model(name) for name in absent):
        raise MachineCannot(
            f"{archive.path} was made without its base model, which was a folder of that machine",
            hint="ask for a bundle that was made without --without-base",
            code="E828",
        )
    outside = [name for name in (*lock["files"], *_paths_in(lock)) if not _inside(name)]
    if outside or absent:
        raise UsageError(
            f"the lock in {archive.path} reads {quoted((outside or absent)[0], 120)}, which is not "
            "in the bundle",
            hint="it was not written by `recipe bundle`; get it again from somebody you trust",
            code="E825",
        )


def _inside(path: str) -> bool:
    return path.startswith(f"{INPUTS}/") and ".." not in path.split("/")


def _paths_in(lock: Mapping[str, Any]) -> list[str]:
    """Every path that the locked recipe names."""
    from runner.recipe.model import build_resolved
    from runner.recipe.paths import named_paths

    recipe = build_resolved(lock["recipe"], Path(LOCK_FILE))
    return [each.text for each in named_paths(recipe)]


def as_run(archive: Archive, folder: Path, recipe: Recipe) -> Run:
    """The bundle, unpacked to `folder`, as a run that can be derived again from it alone."""
    from runner.verify.run import open_run

    run = open_run(folder)
    given = recipe.given
    assert given is not None
    record = {
        **run.record,
        "recipe_file": str(folder / LOCK_FILE),
        "given": given.as_data(),
        "stages": [
            {**each, "material": {**each["material"], "files": given.key_facts(each["name"])}}
            if given.holds(each["name"])
            else each
            for each in run.record["stages"]
        ],
    }
    return replace(run, record=record)


def shown_names(archive: Archive) -> list[str]:
    """All members but those that stages stream out of the archive."""
    return [name for name in archive.index.files if not name.startswith(f"{FETCHED}/")]
