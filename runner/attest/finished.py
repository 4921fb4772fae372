"""The run that a statement is about: finished, its files hashed again, its lock at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import NotReproduced, RecipeInvalid, UsageError
from runner.lock.file import read_lock
from runner.lock.of_run import FILE as LOCK_FILE
from runner.verify.files import verify_files
from runner.verify.run import open_run

if TYPE_CHECKING:
    from runner.store.store import Store
    from runner.verify.run import Run

INPUTS = ("fetch", "fetch_data", "fetch_tasks")  # stages whose outputs the run starts from


@dataclass(frozen=True)
class Finished:
    """A run whose files are what its manifest says. `lock` is its recipe.lock.yaml."""

    run: Run
    lock: Mapping[str, Any]

    def artifacts(self) -> dict[str, Mapping[str, Any]]:
        """Path in the run's folder -> facts of the manifest, for everything the run made."""
        found = {}
        for stage, files in self.run.manifest.items():
            for path, facts in files.items():
                if stage not in INPUTS and (place := self.run.shown(stage, path)) is not None:
                    found[place.relative_to(self.run.folder).as_posix()] = facts
        return dict(sorted(found.items()))

    def made(self, stage: str) -> Mapping[str, str]:
        """Path -> sha256 of what a stage gave; empty where the run has no such stage."""
        files = self.run.manifest.get(stage, {})
        return {path: facts["sha256"] for path, facts in sorted(files.items())}

    def clock(self, name: str) -> str:
        """When the run `started` or `ended`, as both formats want it: UTC, with a Z."""
        from datetime import UTC, datetime

        moment = datetime.fromisoformat(self.run.record[name]).astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def finished(
    path: Path, store: Store, on_file: Callable[[int, int], None] = lambda done, total: None
) -> Finished:
    """The run at `path`, every file of it hashed again first.

    Raises UsageError (E701: no finished run; E840: nothing to attest) and NotReproduced (E841: a
    file is not what the manifest lists).
    """
    run = open_run(path)
    lock = _lock_of(run)
    found = Finished(run, lock)
    if not found.artifacts():
        raise _nothing(run, "it made nothing: it ended with its inputs")
    problems = [f"{each.path} {each.problem}" for each in verify_files(run, store, on_file)
                if each.problem]  # fmt: skip
    if lock["model"] != found.made("fetch"):
        problems.append(f"{run.folder / LOCK_FILE} pins another base model than the manifest lists")
    if problems:
        raise NotReproduced(
            f"{run.folder} is not what its manifest says; nothing is stated about damaged files",
            hint="run the recipe again; what is damaged is made anew",
            code="E841",
            entries=problems,
        )
    return found


def _lock_of(run: Run) -> Mapping[str, Any]:
    if run.record.get("shrink") is not None:
        raise _nothing(run, "it is a run of a shrunken twin, whose weights are random")
    path = run.folder / LOCK_FILE
    if not path.is_file():
        raise _nothing(run, f"it has no {LOCK_FILE}, which says what it was made from")
    try:
        return read_lock(path)
    except (UsageError, RecipeInvalid):
        raise _nothing(run, f"its {LOCK_FILE} is damaged") from None


def _nothing(run: Run, why: str) -> UsageError:
    return UsageError(
        f"{run.folder} cannot be attested: {why}",
        hint="run the recipe to its end with this version of Spark Recipes, and attest that run",
        code="E840",
    )
