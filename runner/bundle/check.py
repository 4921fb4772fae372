"""Prove a bundle: every byte against its index, and its index against manifest and lock."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.bundle.archive import Archive
from runner.bundle.contents import INPUTS, MANIFEST_FILE, RECORD_FILE, is_of_model, place
from runner.bundle.index import BASE
from runner.bundle.texts import FILES, Texts, read_texts, require_texts
from runner.bundle.unpacked import admit, as_run, locked_recipe, shown_names, unpack
from runner.errors import UsageError
from runner.lock.of_run import FILE as LOCK_FILE
from runner.stages import ORDER
from runner.verify.files import Checked
from runner.verify.prove import Proof
from runner.verify.run import Run

if TYPE_CHECKING:
    from runner.execution.display import OpenDisplay
    from runner.store.store import Store

READERS = 8  # members at once, at most
REMEDY = "get the archive again from whoever made it"


def prove_bundle(
    archive: Archive,
    level: str,
    store: Store,
    cache: Path,
    *,
    trust_code: bool,
    on_file: Callable[[int, int], None],
    open_display: OpenDisplay,
) -> Proof:
    """Hash every member and, where they are intact, derive what the level asks for.

    Raises UsageError (E820) when manifest, lock and index do not belong together, and whatever
    `admit` raises before anything of the bundle is run.
    """
    from runner.store.clean_place import clean_place
    from runner.verify.rederive import rederive

    checked = hash_members(archive, on_file)
    if any(item.problem for item in checked):
        return Proof(_as_it_lies(archive), level, checked, None, REMEDY)
    require_texts(archive)
    with clean_place(cache) as folder:
        names = shown_names(archive) if level != "files" else FILES
        unpack(archive, names, folder / "run")
        texts = read_texts(archive, folder / "run")
        checked += agreement(archive, texts)
        if level == "files" or any(item.problem for item in checked):
            return Proof(_as_it_lies(archive), level, checked, None, REMEDY)
        admit(archive, texts.lock, trust_code=trust_code)
        recipe = locked_recipe(archive, folder / "run")
        run = as_run(archive, folder / "run", recipe)
        proof = Proof(replace(run, folder=archive.path), level, checked, None, REMEDY)
        if proof.unproved:
            return proof
        return replace(proof, again=rederive(run, level, store, cache, open_display=open_display))


def hash_members(archive: Archive, on_file: Callable[[int, int], None]) -> list[Checked]:
    """One result a member, in order. Several are read at once, each as a stream."""
    names = sorted(archive.index.files)
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        results = []
        found = zip(names, pool.map(archive.copy, names), strict=True)
        for done, (name, digest) in enumerate(found, 1):
            expected = archive.index.files[name].sha256
            same = digest == expected
            words = "" if same else f"has sha256 {digest[:12]}… instead of {expected[:12]}…"
            results.append(Checked("", archive.path / name, words))
            on_file(done, len(names))
    return results


def _as_it_lies(archive: Archive) -> Run:
    """The run in the bundle, for a report; it tells no more than the stage that it ended with."""
    try:
        until = json.loads(archive.read(RECORD_FILE))["until"]
    except (UsageError, ValueError, KeyError, TypeError, RecursionError):
        until = None
    return Run(archive.path, {"until": until if until in ORDER else None, "stages": ()}, {})


def agreement(archive: Archive, texts: Texts) -> list[Checked]:
    """What of the index is not what manifest, record and lock say, one result each."""
    found = list(_unlike(archive, texts.manifest, texts.lock))
    if texts.record["manifest_sha256"] != archive.index.files[MANIFEST_FILE].sha256:
        found.append((RECORD_FILE, "names another manifest"))
    return [Checked("", archive.path / name, words) for name, words in found]


def _unlike(
    archive: Archive, stages: Mapping[str, Any], lock: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Members that are not what manifest and lock say, that are missing, and that are unknown."""
    files, base_absent = archive.index.files, BASE in archive.index.left_out
    is_folder = lock["recipe"]["model"].get("path") is not None
    expected: dict[str, str] = {}
    for stage, listed in stages.items():
        if stage == "fetch" and (is_folder or base_absent):
            continue
        expected |= {place(stage, path): facts["sha256"] for path, facts in listed.items()}
    for name, digest in lock["files"].items():
        if not (base_absent and is_of_model(name)):
            expected[name] = digest
    for name, digest in sorted(expected.items()):
        if name not in files:
            yield name, "is missing"
        elif files[name].sha256 != digest:
            source = "lock" if name.startswith(f"{INPUTS}/") else "manifest"
            yield name, f"is not the one of the {source}"
    for name in sorted({*files} - {*expected, *FILES}):
        yield name, "is in no manifest and no lock"
    fetched = {path: facts["sha256"] for path, facts in stages.get("fetch", {}).items()}
    if fetched != lock["model"]:
        yield LOCK_FILE, "pins another base model than the manifest lists"
