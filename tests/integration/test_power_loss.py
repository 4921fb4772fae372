"""The order in which a run reaches the disk, as the kernel is asked for it: seen by strace.

Bytes before the name that leads to them, the name before whoever says that it is there; the
manifest after all that it names.
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runner.execution.run_folder
import runner.store.atomic
import runner.store.locks
import runner.store.roots
import runner.store.store
from tests.crash_scene import Recording, Scene
from tests.disk_order import TRACED, Disk, read_calls
from tests.strace import words as strace_words

PR_SET_PTRACER, ANY = 0x59616D61, ctypes.c_ulong(-1)


@pytest.fixture(scope="module")
def strace(shared_cache: Path) -> list[str]:
    """The words that start strace: the machine's, else Debian's, unpacked with its libraries."""
    return strace_words(shared_cache)


@pytest.fixture
def scene(tmp_path: Path, recording: Recording) -> Scene:
    made = Scene(tmp_path / "scene", recording, earlier=False, waits=True)
    made.prepare()
    return made


def traced_run(scene: Scene, strace: list[str], prepare: Callable[[], None]) -> tuple[Disk, Disk]:
    """What was not sure when the manifest got its name, and at the end."""

    def wait_for_strace() -> None:
        prepare()
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY, 0, 0, 0)
        while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
            time.sleep(0.01)

    prefix = scene.root.parent / "trace" / "calls"
    prefix.parent.mkdir()
    fork = scene.start(in_fork=wait_for_strace)
    command = [*strace, "-ff", "-ttt", "-y", "-qq", "-e", f"trace={','.join(TRACED)}"]
    tracer = subprocess.Popen([*command, "-o", str(prefix), "-p", str(fork.pid)])
    ending = fork.wait()
    assert tracer.wait(60) == 0
    assert ending.code == 0, ending.said
    return replay(scene, prefix)


def replay(scene: Scene, prefix: Path) -> tuple[Disk, Disk]:
    disk, at_manifest = Disk(), Disk()
    manifest = str((scene.runs / "latest").resolve() / "manifest.json")
    entries = set()
    for call in read_calls(prefix):
        if call.name.startswith("rename"):
            if call.paths[1] == manifest:
                at_manifest.unsure_bytes = set(disk.unsure_bytes)
                for folder, names in disk.unsure_names.items():
                    at_manifest.unsure_names[folder] = names - {call.paths[0]}
            entries.add(call.paths[1])
        disk.do(call)
    assert manifest in entries
    kept = {str(entry) for entry in scene.store.root.glob("[a-z]*/*")}
    assert len(kept) == 5
    assert kept <= entries
    return at_manifest, disk


def unsure(scene: Scene, at_manifest: Disk, at_end: Disk) -> list[str]:
    """Everything that a loss of power could take from a run that is called done."""
    run, store = str((scene.runs / "latest").resolve()), str(scene.store.root)
    entries = [str(entry) for entry in scene.store.root.glob("[a-z]*/*")]
    above = [run, *(str(parent) for parent in Path(run).parents[:2])]
    above += [store, *{str(Path(entry).parent) for entry in entries}, f"{store}/.roots"]
    names = {name for names in at_manifest.unsure_names.values() for name in names}
    found = [f"not sure at the manifest: {each}" for each in at_manifest.below(run)]
    found += [f"not sure at the manifest: {each}" for each in above if each in names]
    for folder in [*entries, f"{store}/.roots"]:
        found += [f"not sure at the manifest: {each}" for each in at_manifest.below(folder)]
    found += [f"not sure at the end: {each}" for each in at_end.below(str(scene.runs))]
    return found + [each for each in at_end.too_early if "/.trash/" not in each]


def test_nothing_is_named_before_it_is_on_the_disk(scene: Scene, strace: list[str]) -> None:
    at_manifest, at_end = traced_run(scene, strace, lambda: None)
    assert "\n".join(unsure(scene, at_manifest, at_end)) == ""


def nothing(*_: Any) -> None:
    """What a forgotten fsync does."""


def make_only(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def but_for_one(folder: Path) -> None:
    """fsync_tree that forgets one file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in [*files[1:], *(each for each in folder.rglob("*") if each.is_dir()), folder]:
        runner.store.atomic.fsync_file(path)


def rename_first(path: Path, data: bytes | str) -> None:
    """write_atomic in the wrong order."""
    temporary = path.with_name(f".{path.name}.00000000.partial")
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    temporary.replace(path)
    runner.store.atomic.fsync_file(path)
    runner.store.atomic.fsync_folder(path.parent)


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (runner.store.store, "fsync_tree", nothing),
        (runner.store.store, "fsync_tree", but_for_one),
        (runner.store.store, "fsync_folder", nothing),
        (runner.store.locks, "make_folders", make_only),
        (runner.store.roots, "write_atomic", rename_first),
        (runner.store.atomic, "fsync_folder", nothing),
        (runner.execution.run_folder, "fsync_tree", nothing),
        (runner.execution.run_folder, "fsync_folder", nothing),
        (runner.execution.run_folder, "make_folders", make_only),
        (runner.execution.run_folder, "write_atomic", rename_first),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_forgotten_or_early_step_is_noticed(
    scene: Scene, strace: list[str], module: Any, name: str, instead: Any
) -> None:
    """The control: with one step left out or done too early, the same look finds it."""

    def damage() -> None:
        setattr(module, name, instead)

    at_manifest, at_end = traced_run(scene, strace, damage)
    assert unsure(scene, at_manifest, at_end) != []
