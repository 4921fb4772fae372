"""Hash-locked environments: one isolated set of Python packages for each role.

`environments/ROLE.txt` pins every package with its hashes. An environment lies at its final place
from the start, since scripts in it name that place; a marker written last says that it is
complete, and a folder without the marker is made anew. One process builds, the others wait.

On NVIDIA's images torch and its companions come from the base: they are left out of the install
and seen through `--system-site-packages`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import MachineCannot
from runner.store.atomic import disk_errors, write_atomic
from runner.store.digest import canonical_sha256
from runner.store.locks import Lock
from runner.system.folders import PREBUILT, shipped
from runner.system.process import ChildResult, describe_exit, run_child, tail
from runner.system.uv import index_options, uv_binary, uv_env

MARKER = ".spark-recipes.json"
HEARTBEAT_SECONDS = 20.0
BASE_FILE = Path("/etc/spark-recipes/base.json")  # written by docker/image_identity.py
SUPPLIED = ("torch", "torchvision", "torchaudio", "triton")
# With torch come the CUDA packages that only torch asks for.
_FROM_BASE = re.compile(r"^(torch|torchvision|torchaudio|triton|(nvidia|cuda)-[\w.-]+)==")
_UNCHANGED = "Would make no changes"  # uv's words for: installed is exactly what is locked


@dataclass(frozen=True, slots=True)
class Environment:
    """A complete environment and the interpreter in it."""

    role: str
    python: Path
    identity: str


@dataclass(frozen=True, slots=True)
class Base:
    """An interpreter whose own packages supply torch; `identity` says at which versions."""

    python: str
    minor: str
    identity: str
    torch: str


def environment_lock_path(role: str) -> Path:
    """The lock of `role`. Raises MachineCannot when this installation has none."""
    path = shipped("environments") / f"{role}.txt"
    if not path.is_file():
        raise MachineCannot(
            f"there is no environment {role!r}: {path} is missing",
            hint="install Spark Recipes again, or restore the file in your checkout",
            code="E424",
        )
    return path


def identity(role: str) -> str:
    """What decides how code in the environment behaves: lock, interpreter, what the base supplies.

    The lock's bytes, the interpreter's minor version, and on a base with torch the versions there.
    """
    lock = environment_lock_path(role)
    base = _base_for(lock)
    return canonical_sha256(
        {
            "lock": hashlib.sha256(lock.read_bytes()).hexdigest(),
            "python": base.minor if base else _own_minor(),
            "base": base.identity if base else "",
        }
    )


def torch_version(role: str) -> str:
    """The torch of environment `role`: the base's where it supplies one, else the locked one."""
    lock = environment_lock_path(role)
    if base := _base_for(lock):
        return base.torch
    found = re.search(r"^torch==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{lock} pins no torch"
    return found.group(1)


def ensure(role: str, cache: Path, on_message: Callable[[str], None]) -> Environment:
    """The environment of `role`, built below `cache` if it is missing.

    Another process that builds it is waited for. Raises MachineCannot without network or space or
    when a package is not the locked one; Interrupted on Ctrl-C. A half-built environment is
    removed, or, after a kill, made anew by the next call.
    """
    wanted = identity(role)
    if found := _find(role, wanted, cache):
        return found
    folder = _folder(role, wanted, cache)
    lock = Lock(
        cache / "locks" / f"{folder.name}.lock",
        f"environment {role}",
        on_wait=lambda holder: on_message(f"waiting for {holder} to build environment {role}"),
    )
    with disk_errors(f"building the environment {role}", cache), lock:
        if not (found := _find(role, wanted, cache)):
            _Build(role, wanted, folder, cache, lock.fd, on_message).run()
            found = _find(role, wanted, cache)
    assert found is not None, "a build that ends without an error leaves a complete environment"
    return found


def find(role: str, cache: Path) -> Environment | None:
    """The environment of `role` if it is built, prebuilt or below `cache`."""
    return _find(role, identity(role), cache)


def _find(role: str, wanted: str, cache: Path) -> Environment | None:
    prebuilt = os.environ.get(PREBUILT)
    for place in [Path(prebuilt), cache] if prebuilt else [cache]:
        folder = _folder(role, wanted, place)
        python = folder / "bin" / "python"
        # The interpreter may be gone although the marker is there: a link into /usr.
        if _marked_identity(folder) == wanted and os.access(python, os.X_OK):
            return Environment(role, python, wanted)
    return None


def _folder(role: str, wanted: str, cache: Path) -> Path:
    return cache / "environments" / f"{role}-{wanted[:16]}"


def _marked_identity(folder: Path) -> str:
    try:
        return str(json.loads((folder / MARKER).read_bytes())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class _Build:
    """One attempt to build one environment."""

    def __init__(
        self,
        role: str,
        wanted: str,
        folder: Path,
        cache: Path,
        lock_fd: int,
        on_message: Callable[[str], None],
    ) -> None:
        self.role = role
        self.wanted = wanted
        self.folder = folder
        self.cache = cache
        self.lock_fd = lock_fd
        self.say = on_message
        self.log = folder.with_suffix(".log")
        self.base = _base_for(environment_lock_path(role))

    def run(self) -> None:
        """Make the virtual environment, install, check, mark."""
        started = time.monotonic()
        self.say(f"installing environment {self.role} (once; log: {self.log})")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        try:
            self._install()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.say(f"environment {self.role} is ready ({time.monotonic() - started:.0f} s)")

    def _install(self) -> None:
        site = ["--system-site-packages"] if self.base else []
        interpreter = self.base.python if self.base else sys.executable
        self._uv("venv", "--no-project", "--python", interpreter, *site, str(self.folder))
        lock = self.folder / "lock.txt"
        lock.write_text(self._lock_text(), encoding="utf-8")
        sync = ["pip", "sync", "--require-hashes", "--only-binary", ":all:"]
        sync += ["--python", str(self.folder / "bin" / "python"), *index_options(), str(lock)]
        self._uv(*sync)
        # Nothing more, nothing less, and every version as locked.
        check = self._uv(*sync, "--offline", "--dry-run")
        if _UNCHANGED not in check:
            raise self._failure(f"is not as locked after its installation: {check.strip()}")
        marker = {"schema": 1, "role": self.role, "identity": self.wanted}
        _sync_file_system(self.folder)
        write_atomic(self.folder / MARKER, json.dumps(marker, indent=1) + "\n")

    def _lock_text(self) -> str:
        text = environment_lock_path(self.role).read_text(encoding="utf-8")
        return without_supplied(text) if self.base else text

    def _uv(self, *arguments: str) -> str:
        """Run uv and return what it said. Raises MachineCannot."""
        begin = self.log.stat().st_size
        result = run_child(
            [uv_binary(), *arguments],
            env=uv_env(self.cache),
            cwd=self.cache,
            stdout=self.log,
            stderr=self.log,
            lock_fds=[self.lock_fd],
            on_poll=self._heartbeat(),
        )
        said = self.log.read_bytes()[begin:].decode(errors="replace")
        if not result.ok:
            raise self._explained(result, said)
        return said

    def _heartbeat(self) -> Callable[[], None]:
        started = last = time.monotonic()

        def beat() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= HEARTBEAT_SECONDS:
                last = now
                self.say(f"still installing environment {self.role} ({now - started:.0f} s)")

        return beat

    def _explained(self, result: ChildResult, said: str) -> MachineCannot:
        for mark, message, hint, code in _EXPLANATIONS:
            if mark.search(said):
                return self._failure(f"cannot be built: {message}", hint, code)
        return self._failure(f"cannot be built: {describe_exit(result)}\n{tail(self.log, 6)}")

    def _failure(self, message: str, hint: str = "", code: str = "E423") -> MachineCannot:
        hint = hint or "read the log, then run the same command again"
        return MachineCannot(
            f"environment {self.role} {message} (log: {self.log})", hint=hint, code=code
        )


_EXPLANATIONS = (
    (
        re.compile(r"No space left on device|Disk quota exceeded"),
        "no space left on the disk",
        "free some space (`recipe gc` helps), or set SPARK_RECIPES_CACHE to a folder on a larger "
        "disk; the training environments need 5 GB each",
        "E410",
    ),
    (
        re.compile(r"Hash mismatch"),
        "a package from your index is not the locked one",
        "the log names it; use an index or mirror that serves the original files",
        "E422",
    ),
    (
        re.compile(r"error sending request|client error|dns error|Failed to fetch|offline", re.I),
        "the package index cannot be reached",
        "check the network and HTTPS_PROXY, or name your mirror with PIP_INDEX_URL or "
        "UV_DEFAULT_INDEX, then run the same command again",
        "E421",
    ),
    (
        re.compile(r"not found in the package registry|not found in the provided"),
        "your package index lacks a locked package",
        "the log names it; use an index or mirror that has all files",
        "E421",
    ),
    (
        re.compile(r"has no wheels? with a matching|no usable wheels|has no source distribution"),
        "a locked package has no wheel for this machine or this Python",
        "use Linux on x86-64 or ARM64 with Python 3.11 to 3.14",
        "E424",
    ),
)


def without_supplied(lock: str) -> str:
    """The lock without torch and its companions, which the base supplies."""
    return "".join(entry for entry in _entries(lock) if not _FROM_BASE.match(entry))


def _entries(lock: str) -> Iterator[str]:
    """The lock cut into one piece for each package, comments and hashes with it."""
    return iter(re.split(r"^(?=\S)", lock, flags=re.MULTILINE))


def _base_for(lock: Path) -> Base | None:
    """The base that supplies torch; None when there is none, or the lock has no torch in it."""
    if not any(_FROM_BASE.match(entry) for entry in _entries(lock.read_text(encoding="utf-8"))):
        return None
    if chosen := os.environ.get("SPARK_RECIPES_BASE_PYTHON"):
        return _asked_base(chosen)
    return _image_base(BASE_FILE)


def _image_base(file: Path) -> Base | None:
    """The base as the image build wrote it down."""
    try:
        facts = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    python, torch = facts.pop("python"), facts["supplied"].get("torch")
    return Base(python, _own_minor(), canonical_sha256(facts), torch) if torch else None


@functools.cache
def _asked_base(python: str) -> Base | None:
    """The base behind an interpreter that the user names: ask it what it has."""
    question = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps(['%d.%d' % sys.version_info[:2], have]))"
    )
    try:
        answer = subprocess.run(
            [python, "-c", question], capture_output=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineCannot(
            f"SPARK_RECIPES_BASE_PYTHON is {python}, which does not run: {error}",
            hint="set it to a Python that has torch, or unset it",
            code="E424",
        ) from None
    minor, have = json.loads(answer.stdout)
    supplied = {name: have[name] for name in SUPPLIED if name in have}
    if "torch" not in supplied:
        return None
    return Base(python, minor, canonical_sha256({"supplied": supplied}), supplied["torch"])


def _own_minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _sync_file_system(folder: Path) -> None:
    """Have every file of the environment on the disk before the marker is: one call for all."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)
