"""Pinned tools, built from source into the cache on first use: `llama.cpp` and `ollama`.

`environments/tools.lock` pins them. A tool lies in `CACHE/tools/NAME-IDENTITY/` and is there only
when it is complete: it is built beside and renamed. flock keeps two processes from building at
once; a build that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot
from runner.store.atomic import disk_errors, fsync_folder, fsync_tree, write_atomic
from runner.store.digest import canonical_sha256
from runner.store.locks import Lock
from runner.system import folders

if TYPE_CHECKING:
    from runner.system.downloads import Pin

MARKER = "complete.json"
Say = Callable[[str], None]


def _silent(message: str) -> None:
    """Say nothing."""


@functools.cache
def read_lock(path: Path | None = None) -> Mapping[str, Any]:
    """The content of tools.lock. Raises ValueError when it is not of schema 1."""
    file = path or folders.shipped("environments") / "tools.lock"
    lock = tomllib.loads(file.read_text(encoding="utf-8"))
    if lock.get("schema") != 1:
        raise ValueError(f"{file} is not a tools.lock of schema 1")
    return lock


def tool_identity(name: str) -> str:
    """Hex sha256 of everything that decides the tool: its pins and flags, and its helpers'. Pure.

    The same on every machine; flags that one kind of machine adds are part of it for all.
    """
    lock = read_lock()
    pins = lock["tools"][name]
    material: dict[str, Any] = {
        "tool": name,
        "pins": pins,
        "wheels": {wheel: lock["wheels"][wheel] for wheel in pins["wheels"]},
    }
    if "helpers" in pins:
        material["llama.cpp"] = tool_identity("llama.cpp")
    return canonical_sha256(material)


def tool_folder(name: str, cache: Path) -> Path:
    """Where the tool lies below `cache` once it is built."""
    return cache / "tools" / f"{name}-{tool_identity(name)[:16]}"


def ensure_tool(name: str, cache: Path, say: Say = _silent) -> Path:
    """The root folder of a tool, built now if it is missing.

    `llama.cpp`: `bin/llama-*` and `convert_hf_to_gguf.py`; `ollama`: `bin/ollama`. Looks below
    SPARK_RECIPES_PREBUILT first. Raises MachineCannot when there is no compiler (E420), no network
    (E421), when a download has other bytes (E422), when the build fails (E423), or when this kind
    of processor is not supported (E424); Interrupted on Ctrl-C.
    """
    if found := find_tool(name, cache):
        return found
    folder = tool_folder(name, cache)
    with (
        disk_errors(f"building {name}", cache),
        Lock(
            cache / "locks" / f"tool-{folder.name}.lock",
            f"the build of {name}",
            on_wait=lambda holder: say(f"waiting for {holder}, which builds {name}"),
        ) as lock,
    ):
        if is_complete(folder, name):
            return folder
        _build(name, folder, cache, say, lock)
    return folder


def find_tool(name: str, cache: Path) -> Path | None:
    """The root folder of the tool if it is built, prebuilt or in the cache."""
    prebuilt = os.environ.get(folders.PREBUILT)
    places = [Path(prebuilt)] if prebuilt else []
    for place in [*places, cache]:
        if is_complete(folder := tool_folder(name, place), name):
            return folder
    return None


def is_complete(folder: Path, name: str) -> bool:
    """Was the build finished, by these pins, and are its programs still what was built?"""
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        sizes = {path: (folder / path).stat().st_size for path in marker["sizes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(marker["identity"] == tool_identity(name) and marker["sizes"] == sizes)


def pin_of_wheel(name: str) -> Pin:
    """The pin of one of the wheels that build."""
    from runner.system.downloads import Pin

    wheel = read_lock()["wheels"][name]
    return Pin(name, wheel["version"], tuple(wheel["sha256"].values()))


def _build(name: str, folder: Path, cache: Path, say: Say, lock: Lock) -> None:
    from runner.system import tool_builds

    check_machine(read_lock()["tools"]["llama.cpp"]["machine_needs"])
    work = cache / "tools" / f".{folder.name}.building"
    work.mkdir(parents=True, exist_ok=True)
    (cache / "tools" / f"{name}.log").write_bytes(b"")
    job = tool_builds.Job(name, read_lock()["tools"][name], work, cache, say, lock.fd)
    root = tool_builds.BUILDERS[name](job)
    _finish(root, name, folder)
    shutil.rmtree(work)


def _finish(root: Path, name: str, folder: Path) -> None:
    """Mark what was built as complete and give it its name, in this order, on the disk."""
    programs = sorted(
        path for path in root.rglob("*") if path.is_file() and os.access(path, os.X_OK)
    )
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in programs}
    marker = {"identity": tool_identity(name), "sizes": sizes}
    write_atomic(root / MARKER, json.dumps(marker, indent=2) + "\n")
    fsync_tree(root)
    if folder.exists():  # built by these pins, but its programs were changed since
        shutil.rmtree(folder)
    root.rename(folder)
    fsync_folder(folder.parent)


def check_machine(needs: Mapping[str, list[str]], cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Raise MachineCannot unless this processor runs what the pinned flags compile."""
    machine = platform.machine()
    if machine not in needs:
        raise MachineCannot(
            f"the tools are pinned for {' and '.join(sorted(needs))}; this machine is {machine}",
            hint="run on a machine of these kinds, or in its container image",
            code="E424",
        )
    features = _processor_features(cpuinfo)
    missing = [name for name in needs[machine] if features and name not in features]
    if missing:
        raise MachineCannot(
            f"this processor lacks {', '.join(missing)}, which the pinned tools are compiled for",
            hint="use a newer processor, or give a virtual machine the model of its host",
            code="E424",
        )


def _processor_features(cpuinfo: Path) -> frozenset[str]:
    """What /proc/cpuinfo calls `flags` (x86) or `Features` (ARM); empty when it does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    key = "Features" if platform.machine() == "aarch64" else "flags"
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() == key:
            return frozenset(value.split())
    return frozenset()
