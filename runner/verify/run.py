"""A finished run, read from its folder: its record, its manifest, and where each file lies."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.execution.run_folder import SHOWN_AS
from runner.report.printable import quoted
from runner.stages import ORDER
from runner.stages.contract import Class, FileEntry, Outputs
from runner.system.regular import NotReadable, is_folder, is_regular, read_regular

if TYPE_CHECKING:
    from runner.bundle.given import Given
    from runner.recipe.model import Recipe
    from runner.store.store import Store

SURROUNDINGS = ("platform", "environments", "tools")  # of a record; deriving again needs them
MAX_BYTES = 64 << 20  # of run.json and of manifest.json
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Run:
    """`record` is run.json, `manifest` the stages of manifest.json: stage -> path -> facts."""

    folder: Path
    record: Mapping[str, Any]
    manifest: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def stages(self) -> list[str]:
        """Names of the stages that were part of the run, in order."""
        return [stage["name"] for stage in self.record["stages"]]

    def stage(self, name: str) -> Mapping[str, Any]:
        """What run.json says about one stage. Raises KeyError."""
        for stage in self.record["stages"]:
            if stage["name"] == name:
                found: Mapping[str, Any] = stage
                return found
        raise KeyError(name)

    def shown(self, stage: str, path: str) -> Path | None:
        """Where the run folder shows an output; None for what it does not show (the base model)."""
        place = SHOWN_AS.get(stage)
        return None if place is None else self.folder / place / path

    def outputs(self, stage: str, store: Store) -> Outputs | None:
        """The stage's outputs: from the store, else from the run folder; None when in neither."""
        key = str(self.stage(stage)["key"])
        if (found := store.lookup(stage, key)) is not None and self._agrees(found):
            return found
        place = SHOWN_AS.get(stage)
        listed = self.manifest.get(stage)
        if place is None or not listed:
            return None
        folder = self.folder / place
        entries = {path: _entry(path, facts) for path, facts in listed.items()}
        if not all((folder / path).is_file() for path in entries):
            return None
        return Outputs(stage, key, folder, entries, self.stage(stage)["measures"])

    def _agrees(self, found: Outputs) -> bool:
        """Does the store hold what the manifest lists, byte for byte?"""
        listed = {path: facts["sha256"] for path, facts in self.manifest[found.stage].items()}
        stored = {p: e.sha256 for p, e in found.files.items() if e.cls is not Class.MEASURED}
        return listed == stored

    def recipe(self) -> Recipe:
        """The recipe as it was run, whatever its file says today.

        Raises UsageError (E702) when the folder that its paths start from is gone, (E701) when
        there is no recipe in the record.
        """
        from runner.recipe.base_recipe import resolved_findings
        from runner.recipe.model import build_resolved
        from runner.recipe.shrink import shrunken_as

        file = Path(str(self.record.get("recipe_file", "")))
        if not file.parent.is_dir():
            raise UsageError(
                f"the run belongs to {file}, and that folder is not on this machine",
                hint="verify its files only: --level files",
                code="E702",
            )
        if lost := [name for name in SURROUNDINGS if name not in self.record]:
            raise _damaged(self.folder, f"it does not say which {lost[0]} it was made with")
        resolved = self.record.get("resolved")
        if bad := resolved_findings(resolved):
            raise _damaged(self.folder, f"its recipe is none: {bad[0].message}")
        assert isinstance(resolved, dict)
        recipe = build_resolved(resolved, file)
        return replace(shrunken_as(recipe, self.record.get("shrink")), given=self._given())

    def _given(self) -> Given | None:
        """The bundle that the recipe came in; None when it came in none."""
        from runner.bundle.given import Given

        data = self.record.get("given")
        try:
            return None if data is None else Given.from_data(data)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise _damaged(self.folder, "the bundle that it came in is none") from None


def open_run(path: Path) -> Run:
    """The run in folder `path`, or the newest of `runs/NAME`.

    Raises UsageError (E701) when there is no finished run.
    """
    from runner.runs.known import named_below

    path = named_below(path)
    folder = path / "latest" if is_folder(path / "latest") else path
    if not is_folder(folder):
        raise UsageError(
            f"{path} is no folder of a run",
            hint="name the folder of a run, or runs/NAME for its newest; the NAME is the recipe's",
            code="E701",
        )
    for name in ("run.json", "manifest.json"):
        if not os.path.lexists(folder / name):
            raise _unfinished(path, folder, name)
    record, manifest = (_read_json(folder / name) for name in ("run.json", "manifest.json"))
    if problem := _problem(record, manifest) or _unnamed(record, manifest):
        raise _damaged(folder, problem)
    return Run(folder.resolve(), record, dict(manifest["stages"]))


def open_derived(folder: Path) -> Run:
    """The run of a derivation of our own: its manifest also has the stages that it was given."""
    record, manifest = (_read_json(folder / name) for name in ("run.json", "manifest.json"))
    return Run(folder.resolve(), record, dict(manifest["stages"]))


def _unfinished(path: Path, folder: Path, missing: str) -> UsageError:
    from runner.runs.known import runs_at

    if going := [run.folder for run in runs_at(folder) if run.alive]:
        return UsageError(
            f"{path} has not ended: it is running",
            hint=f"wait until it has: recipe status {going[-1]}, or recipe logs -f {going[-1]}",
            code="E701",
        )
    begun = is_regular(folder / "run.json") or any(folder.glob("*/run.json"))
    return UsageError(
        f"{path} holds no finished run" + ("" if begun else f": there is no {missing}"),
        hint="it has begun and not ended: run the recipe again, and it goes on where it was"
        if begun
        else "name the folder of a run, or runs/NAME for its newest",
        code="E701",
    )


def _damaged(folder: Path, why: str) -> UsageError:
    return UsageError(
        f"{folder} cannot be read as a run: {why}",
        hint="its run.json or manifest.json is damaged; run the recipe again",
        code="E701",
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_regular(path, MAX_BYTES))
    except NotReadable as error:
        raise _damaged(path.parent, f"{path.name}: {error}") from None
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise _damaged(path.parent, f"{path.name}: {why}") from None


def _problem(record: Any, manifest: Any) -> str:
    """What of a run's record or manifest is not as a run writes it; "" when all is.

    The run may be somebody else's: no name in it may lead out of its folder, or out of the store.
    """
    try:
        for stage in record["stages"]:
            if not _is_stage(stage):
                return f"it has a stage that is none: {quoted(str(stage.get('name')), 40)}"
        for name, files in manifest["stages"].items():
            if name not in ORDER:
                return f"there is no stage {quoted(name, 40)}"
            for path, facts in files.items():
                if not _is_inside(path) or not _is_entry(facts):
                    return f"{name} has a file that is none: {quoted(path, 80)}"
        sections = [record.get(name, {}) for name in SURROUNDINGS]
        if not all(isinstance(section, dict) for section in sections):
            return "it does not say where it was made"
        if record.get("until") not in (None, *ORDER):
            return "it ended at a stage that is none"
        shrink = record.get("shrink") or {}
        return "" if isinstance(shrink, dict) else "it does not say what was shrunken"
    except (KeyError, TypeError, AttributeError):
        return "it is not as a run writes it"


def _unnamed(record: Any, manifest: Any) -> str:
    """A stage that only the manifest has, in words; "" when there is none."""
    named = {stage["name"] for stage in record["stages"]}
    lost = [name for name in manifest["stages"] if name not in named]
    return f"run.json does not know the stage {lost[0]} of manifest.json" if lost else ""


def _is_stage(stage: Mapping[str, Any]) -> bool:
    return (
        stage["name"] in ORDER
        and _KEY.fullmatch(stage["key"]) is not None
        and isinstance(stage.get("material", {}), dict)
        and isinstance(stage["measures"], dict)
    )


def _is_inside(path: str) -> bool:
    leads_out = path.startswith("/") or ".." in path.split("/")
    return bool(path) and not leads_out and "\0" not in path


def _is_entry(facts: Mapping[str, Any]) -> bool:
    size, digest = facts["size"], facts["sha256"]
    return (
        type(size) is int
        and 0 <= size < 2**63
        and _KEY.fullmatch(digest) is not None
        and facts["class"] in {each.value for each in Class}
        and isinstance(facts.get("platform", ""), str)
    )


def _entry(path: str, facts: Mapping[str, Any]) -> FileEntry:
    return FileEntry(path, facts["size"], facts["sha256"], Class(facts["class"]))
