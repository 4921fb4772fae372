"""A finished run, read from its folder: its record, its manifest, and where each file lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.execution.run_folder import SHOWN_AS
from runner.stages.contract import Class, FileEntry, Outputs

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.store.store import Store


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

        Raises UsageError (E702) when the folder that its paths start from is gone.
        """
        from runner.recipe.model import build
        from runner.recipe.source import Source

        file = Path(self.record["recipe_file"])
        if not file.parent.is_dir():
            raise UsageError(
                f"the run belongs to {file}, and that folder is not on this machine",
                hint="verify its files only: --level files",
                code="E702",
            )
        resolved = dict(self.record["resolved"])
        recipe = build(resolved, Source(path=file, data=resolved))
        return replace(recipe, shrink=self.record.get("shrink"))


def open_run(path: Path) -> Run:
    """The run in folder `path`, or the newest of `runs/NAME`.

    Raises UsageError (E701) when there is no finished run.
    """
    folder = path / "latest" if (path / "latest").is_dir() else path
    if not folder.is_dir():
        raise UsageError(
            f"{path} is no folder of a run",
            hint="name the folder of a run, or runs/NAME for its newest; the NAME is the recipe's",
            code="E701",
        )
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return Run(folder.resolve(), record, dict(manifest["stages"]))
    except FileNotFoundError as error:
        begun = (folder / "run.json").is_file() or any(folder.glob("*/run.json"))
        raise UsageError(
            f"{path} holds no finished run"
            + ("" if begun else f": there is no {Path(error.filename).name}"),
            hint="it has begun and not ended: run the recipe again, and it goes on where it was"
            if begun
            else "name the folder of a run, or runs/NAME for its newest",
            code="E701",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read as a run: {error}",
            hint="its run.json or manifest.json is damaged; run the recipe again",
            code="E701",
        ) from None


def _entry(path: str, facts: Mapping[str, Any]) -> FileEntry:
    return FileEntry(path, facts["size"], facts["sha256"], Class(facts["class"]))
