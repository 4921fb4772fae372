"""Manifest, lock and record of a bundle: checked, also against each other, before any is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.bundle.contents import MANIFEST_FILE, RECORD_FILE, place
from runner.bundle.index import name_problem
from runner.errors import UsageError
from runner.lock.file import read_lock
from runner.lock.of_run import FILE as LOCK_FILE
from runner.report.printable import quoted
from runner.stages import ORDER

if TYPE_CHECKING:
    from pathlib import Path

    from runner.bundle.archive import Archive

FILES = (LOCK_FILE, MANIFEST_FILE, RECORD_FILE)
_FACTS = ("platform", "environments", "tools")
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Texts:
    """`manifest`: its stages; `record`: run.json as bundled; `lock`: recipe.lock.yaml."""

    manifest: Mapping[str, Any]
    record: Mapping[str, Any]
    lock: Mapping[str, Any]


def require_texts(archive: Archive) -> None:
    """Raises UsageError (E820, E824) where one is missing, damaged, or too large to be one."""
    for name in FILES:
        archive.read(name)


def read_texts(archive: Archive, folder: Path) -> Texts:
    """Those that were unpacked to `folder`. Raises UsageError (E801, E820) and LockStale (E803)."""
    from runner.recipe.base_recipe import resolved_findings
    from runner.recipe.schema import load_schema
    from runner.recipe.validate import findings

    lock = read_lock(folder / LOCK_FILE)
    manifest = _json(archive, folder / MANIFEST_FILE)
    record = _json(archive, folder / RECORD_FILE)
    if bad := resolved_findings(lock["recipe"]):
        raise _no_bundle(archive, f"the recipe in its lock is none: {bad[0].message}")
    if bad := findings(manifest, load_schema("manifest-1")):
        raise _no_bundle(archive, f"its {MANIFEST_FILE} is none: {bad[0].message}")
    if problem := _manifest_problem(manifest["stages"]):
        raise _no_bundle(archive, f"its {MANIFEST_FILE} is none: {problem}")
    if problem := _record_problem(record, manifest["stages"], lock["recipe"]):
        raise _no_bundle(archive, f"its {RECORD_FILE} {problem}")
    if lock["recipe"]["name"] != archive.index.name:
        raise _no_bundle(archive, "its lock is of another recipe than its index")
    return Texts(manifest["stages"], record, lock)


def _json(archive: Archive, path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _no_bundle(archive, f"its {path.name} cannot be read") from None


def _manifest_problem(stages: Mapping[str, Any]) -> str:
    """What the schema does not say of a manifest's names and digests; "" when all is well."""
    try:
        if unknown := sorted(set(stages) - set(ORDER)):
            return f"there is no stage {quoted(unknown[0], 40)}"
        listed = [(stage, *item) for stage in stages for item in stages[stage].items()]
        files = {place(stage, path): facts for stage, path, facts in listed}
        if not all(isinstance(facts.get("platform", ""), str) for facts in files.values()):
            return "a platform in it is none"
        if not all(_KEY.fullmatch(facts["sha256"]) for facts in files.values()):
            return "a digest in it is none"
        return name_problem(files)
    except (KeyError, TypeError, AttributeError):
        return "it is not as a run has it"


def _record_problem(record: Any, manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """What of run.json is not as a bundle has it; "" when all is.

    What a run is derived from again stands in it, so the recipe must be the lock's, which is
    checked, and a key must be one: it is looked for in the store.
    """
    try:
        if record["resolved"] != recipe:
            return "holds another recipe than the lock"
        if record["until"] not in (None, *ORDER):
            return "names an unknown stage"
        if not all(
            isinstance(record[name], dict) for name in ("platform", "environments", "tools")
        ):
            return "does not say where the run was made"
        stages = {stage["name"]: stage for stage in record["stages"]}
        if not all(_is_stage(stage) for stage in record["stages"]):
            return "describes a stage that is none"
        if not set(manifest) <= set(stages):
            return f"does not know all stages of the {MANIFEST_FILE}"
        return "" if isinstance(record["manifest_sha256"], str) else "names no manifest"
    except (KeyError, TypeError, AttributeError):
        return "is not as a bundle has it"


def _is_stage(stage: Mapping[str, Any]) -> bool:
    material = stage["material"]
    return (
        stage["name"] in ORDER
        and _KEY.fullmatch(stage["key"]) is not None
        and isinstance(material, dict)
        and type(material["version"]) is int
        and isinstance(material.get("files", {}), dict)
        and stage["measures"] == {}
    )


def _no_bundle(archive: Archive, why: str) -> UsageError:
    return UsageError(
        f"{archive.path} is not a bundle: {why}",
        hint="get the archive again from whoever made it with `recipe bundle`",
        code="E820",
    )
