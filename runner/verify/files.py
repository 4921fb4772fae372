"""Level `files`: every byte that a run shows, and that the store keeps for it, hashed again.

Nothing is trusted for its size or time. Several files are hashed at once, each as a stream; a file
that run folder and store share (a hard link) is read once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.execution import checksums
from runner.store.digest import file_sha256
from runner.store.record import DamagedError, read_record

if TYPE_CHECKING:
    from runner.store.store import Store
    from runner.verify.run import Run

READERS = 8  # files at once, at most


@dataclass(frozen=True, slots=True)
class Checked:
    """One file, or a whole stored stage. `problem` is empty when its bytes are the recorded ones.

    `absent`: a stored stage that is not in the store (collected, or another machine): no damage.
    """

    stage: str
    path: Path
    problem: str = ""
    absent: bool = False


@dataclass(frozen=True, slots=True)
class _Expected:
    stage: str
    path: Path
    size: int
    sha256: str


def verify_files(
    run: Run, store: Store, on_file: Callable[[int, int], None] = lambda done, total: None
) -> list[Checked]:
    """Hash everything again; one result a file, in order of stage and path.

    `on_file(done, total)` is called after each file.
    """
    results = [_check_manifest(run), *_check_own_files(run)]
    expected = list(_shown_files(run))
    for name in run.stages:
        stored = _stored_files(run, store, name)
        if isinstance(stored, Checked):
            results.append(stored)
        else:
            expected += stored
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        jobs: dict[tuple[int, int], Future[tuple[int, str] | str]] = {}
        known = [(item, _identity(item.path)) for item in expected]
        for item, identity in known:
            if identity not in jobs:
                jobs[identity] = pool.submit(_digest, item.path)
        for done, (item, identity) in enumerate(known, 1):
            results.append(_compare(item, jobs[identity].result()))
            on_file(done, len(expected))
    return results


def _check_manifest(run: Run) -> Checked:
    path = run.folder / "manifest.json"
    recorded = run.record.get("manifest_sha256")
    found = file_sha256(path)
    same = recorded is None or recorded == found
    return Checked("", path, "" if same else _other(found, str(recorded)))


def _check_own_files(run: Run) -> Iterator[Checked]:
    """What the manifest does not list: record, lock, events, logs, measured results.

    Nothing for a run of before there were checksums.
    """
    path = run.folder / checksums.NAME
    if not path.exists() and "checksums" not in run.record:
        return
    try:
        listed = dict(checksums.read_checksums(run.folder))
    except (OSError, ValueError) as error:
        yield Checked("", path, f"cannot be read: {error}")
        return
    elsewhere = {item.path: item.sha256 for item in _shown_files(run)}
    elsewhere[run.folder / checksums.MANIFEST] = str(run.record.get("manifest_sha256"))
    for name, recorded in listed.items():
        place = run.folder / name
        if name == checksums.OWN_LOG:  # of a run of before it was left out: it went on after
            continue
        if place in elsewhere:
            if elsewhere[place] != recorded:
                yield Checked("", path, f"has another sha256 of {name} than the manifest")
            continue
        found = _digest(place)
        same = not isinstance(found, str) and found[1] == recorded
        said = found if isinstance(found, str) else _other(found[1], recorded)
        yield Checked("", place, "" if same else said)
    for name in checksums.files_below(run.folder):
        if name not in listed:
            yield Checked("", run.folder / name, f"is not in {checksums.NAME}")


def _shown_files(run: Run) -> Iterator[_Expected]:
    for stage, files in run.manifest.items():
        for path, facts in files.items():
            if (place := run.shown(stage, path)) is not None:
                yield _Expected(stage, place, facts["size"], facts["sha256"])


def _stored_files(run: Run, store: Store, name: str) -> list[_Expected] | Checked:
    """The files of a stored stage, or in one result why there are none to hash."""
    folder = store.folder(name, str(run.stage(name)["key"]))
    if not folder.is_dir():
        return Checked(name, folder, absent=True)
    try:
        record = read_record(folder)
    except (OSError, DamagedError) as error:
        return Checked(name, folder, str(error))
    entries = {path: entry for path, (entry, _) in record.files.items()}
    for path, facts in run.manifest.get(name, {}).items():
        if path in entries and entries[path].sha256 != facts["sha256"]:
            problem = f"holds another {path} than the manifest lists"
            return Checked(name, folder, problem)
    return [
        _Expected(name, folder / path, entry.size, entry.sha256) for path, entry in entries.items()
    ]


def _identity(path: Path) -> tuple[int, int]:
    """The file behind a name; names that cannot be looked at are all different."""
    try:
        found = path.lstat()
        return found.st_dev, found.st_ino
    except OSError:
        return -1, hash(path)


def _digest(path: Path) -> tuple[int, str] | str:
    """Size and sha256, or in words why the file cannot be read."""
    try:
        if path.is_symlink() or not path.is_file():
            return "is gone" if not os.path.lexists(path) else "is no longer a regular file"
        return path.stat().st_size, file_sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _compare(expected: _Expected, found: tuple[int, str] | str) -> Checked:
    if isinstance(found, str):
        return Checked(expected.stage, expected.path, found)
    size, digest = found
    if size != expected.size:
        problem = f"has {size} bytes instead of {expected.size}"
        return Checked(expected.stage, expected.path, problem)
    same = digest == expected.sha256
    return Checked(expected.stage, expected.path, "" if same else _other(digest, expected.sha256))


def _other(found: str, recorded: str) -> str:
    return f"has sha256 {found[:12]}… instead of {recorded[:12]}…"
