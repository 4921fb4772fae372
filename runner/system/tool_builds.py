"""How each pinned tool is built. Everything is written below the job's work folder.

The work folder survives a failure or a kill: the next try keeps what is complete in it (unpacked
sources, compiled objects) and goes on.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runner.errors import MachineCannot
from runner.system import hardware, offline, process
from runner.system.downloads import Pin, fetch_sdist, install_wheels

BYTES_PER_COMPILER = 3 << 29  # 1.5 GiB: what one C++ file of llama.cpp may take
# What a user may have set for compilers and for Go's downloads. Compiler flags are not among it.
_USERS_OWN = (
    *("CC", "CXX", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE"),
    *("GOAUTH", "NETRC"),
)
_PROGRESS = re.compile(rb"\[(\d+)/(\d+)\]")


@dataclass(frozen=True)
class Job:
    """One build: the pins of one tool and where it may work."""

    name: str
    pins: Mapping[str, Any]
    work: Path
    cache: Path
    say: Callable[[str], None]
    lock_fd: int

    @property
    def log(self) -> Path:
        """The builders' own words."""
        return self.cache / "tools" / f"{self.name}.log"

    def run(self, argv: list[str], *, cwd: Path, env: Mapping[str, str]) -> bytes:
        """Run one step; stdout is returned, stderr goes to the log. Raises MachineCannot E423."""
        result = process.run_child(argv, env=env, cwd=cwd, stderr=self.log, lock_fds=[self.lock_fd])
        if not result.ok:
            raise self.failed(argv, result)
        return result.stdout

    def run_ninja(self, argv: list[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Run the compilers, telling how far they are at every quarter."""
        told = Quarters(self.log, lambda done: self.say(f"building {self.name}: {done} %"))
        result = process.run_child(
            argv,
            env=env,
            cwd=cwd,
            stderr=self.log,
            stdout=self.log,
            lock_fds=[self.lock_fd],
            on_poll=told.look,
        )
        if not result.ok:
            raise self.failed(argv, result)

    def failed(self, argv: list[str], result: process.ChildResult) -> MachineCannot:
        """What to tell about a step that did not succeed."""
        return MachineCannot(
            f"building {self.name} failed: {process.describe_exit(result)}{_last_words(self.log)}",
            hint=f"read {self.log}; the same command goes on where the build stopped",
            code="E423",
        )

    def env(self) -> dict[str, str]:
        """The host's short list and the user's compilers; home and temporary files in the work."""
        own = {name: os.environ[name] for name in _USERS_OWN if name in os.environ}
        places = {"HOME": self.work / "home", "TMPDIR": self.work / "tmp"}
        for place in places.values():
            place.mkdir(exist_ok=True)
        return {
            **process.child_env({}),
            **own,
            **{name: str(place) for name, place in places.items()},
            "GIT_CEILING_DIRECTORIES": str(self.work),
        }

    def wheels(self) -> Path:
        """The folder with the pinned wheels that build, unpacked."""
        from runner.system.tools import pin_of_wheel

        target = self.work / "wheels"
        if not target.is_dir():
            partial = _fresh(self.work / "wheels.partial")
            pins = [pin_of_wheel(name) for name in self.pins["wheels"]]
            install_wheels(pins, partial, self.work)  # 300 MB that nobody needs a second time
            partial.rename(target)
        return target


class Quarters:
    """Calls `tell` with 25, 50 and 75 as a ninja log grows."""

    def __init__(self, log: Path, tell: Callable[[int], None]) -> None:
        self._log, self._tell, self._told = log, tell, 0

    def look(self) -> None:
        """Read the end of the log and tell what is new."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 4096))
            steps = _PROGRESS.findall(file.read())
        if not steps:
            return
        done, total = (int(number) for number in steps[-1])
        quarter = 25 * (4 * done // max(total, 1))
        if self._told < quarter < 100:
            self._told = quarter
            self._tell(quarter)


def build_llama_cpp(job: Job) -> Path:
    """Compile the pinned targets and lay them out beside the converter. Returns the root."""
    need_compiler()
    job.say(
        f"building {job.name} {job.pins['version']}, once: about 7 minutes on two cores "
        f"(log: {job.log})"
    )
    source = _llama_cpp_source(job)
    build = _compile(job, source)
    root = _fresh(job.work / "root")
    (root / "bin").mkdir()
    for target in job.pins["targets"]:
        shutil.copy2(build / "bin" / target, root / "bin" / target)
    for name in job.pins["keep"]:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copy(source / name, root / name)
    return root


def build_ollama(job: Job) -> Path:
    """`go install` the pinned module, checked against its sum, and put the helpers beside it."""
    from runner.system.tools import ensure_tool

    need_compiler()
    llama_cpp = ensure_tool("llama.cpp", job.cache, job.say)
    job.say(
        f"building Ollama {job.pins['version']}, once: about 3 minutes on two cores "
        f"(log: {job.log})"
    )
    program = go_install(job)
    root = _fresh(job.work / "root")
    (root / "bin").mkdir()
    (root / "lib" / "ollama").mkdir(parents=True)
    shutil.copy2(program, root / "bin" / "ollama")
    for helper in job.pins["helpers"]:
        shutil.copy2(llama_cpp / "bin" / helper, root / "lib" / "ollama" / helper)
    return root


BUILDERS: Mapping[str, Callable[[Job], Path]] = {
    "llama.cpp": build_llama_cpp,
    "ollama": build_ollama,
}


def need_compiler() -> None:
    """Raise MachineCannot unless a C and a C++ compiler are there."""
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        chosen = os.environ.get(variable)
        if not any(shutil.which(name) for name in ([chosen.split()[0]] if chosen else names)):
            language = "C" if variable == "CC" else "C++"
            said = f" ({variable} is {chosen})" if chosen else ""
            raise MachineCannot(
                f"llama.cpp and Ollama are built here once, and there is no {language} compiler"
                f"{said}",
                hint="sudo apt-get install g++",
                code="E420",
            )


def compile_jobs(cpus: int, available_memory: int) -> int:
    """How many compilers fit side by side; at least one. `available_memory` in bytes."""
    return max(1, min(cpus, available_memory // BYTES_PER_COMPILER))


def _llama_cpp_source(job: Job) -> Path:
    target = job.work / "source"
    if not target.is_dir():
        pin = Pin(job.pins["sdist"], job.pins["version"], (job.pins["sha256"],))
        archive = fetch_sdist(pin, job.cache / "downloads", job.cache)
        partial = _fresh(job.work / "source.partial")
        unpack(archive, job.pins["folder"], partial)
        partial.rename(target)
        archive.unlink()
    return target


def unpack(archive: Path, folder: str, target: Path) -> None:
    """Unpack the regular files below `*/folder` of a .tar.gz into `target`, and nothing else.

    Raises ValueError on a name that would leave `target`. Links, devices and empty folders are not
    unpacked. (tarfile's own filter came with Python 3.11.4.)
    """
    wanted = PurePosixPath(folder).parts
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isreg() or parts[1 : 1 + len(wanted)] != wanted:
                continue
            inside = parts[1 + len(wanted) :]
            if not inside or ".." in inside or member.name.startswith("/"):
                raise ValueError(f"{archive.name} holds the unsafe name {member.name!r}")
            path = target.joinpath(*inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with content, path.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _compile(job: Job, source: Path) -> Path:
    build = job.work / "build"
    wheels = job.wheels()
    env = job.env()
    if not (build / "build.ninja").is_file():
        _configure(job, source, build, wheels, env)
    jobs = compile_jobs(hardware.available_cpus(), hardware.memory().available)
    ninja = [str(_program(wheels, "ninja")), "-C", str(build), f"-j{jobs}", *job.pins["targets"]]
    job.run_ninja(ninja, cwd=job.work, env=env)
    return build


def _configure(job: Job, source: Path, build: Path, wheels: Path, env: Mapping[str, str]) -> None:
    more = job.pins.get("machine_flags", {}).get(platform.machine(), [])
    shutil.rmtree(build, ignore_errors=True)
    where = ["-G", "Ninja", "-S", str(source), "-B", str(build)]
    tools = [f"-DCMAKE_MAKE_PROGRAM={_program(wheels, 'ninja')}"]
    cmake = [str(_program(wheels, "cmake")), *where, *tools, *job.pins["flags"], *more]
    job.run(cmake, cwd=job.work, env=env)


def _program(wheels: Path, name: str) -> Path:
    """The program inside an unpacked wheel; the one in `bin` may be a Python wrapper for it."""
    inside = wheels / name / "data" / "bin" / name
    return inside if inside.is_file() else wheels / "bin" / name


def go_install(job: Job) -> Path:
    """Build the program of the pinned module, or of its pinned `package`. Returns its path."""
    root = job.wheels() / "go"
    go = root / "bin" / "go"
    go.chmod(0o755)
    target = job.work / "go"
    env = _go_env(job, root, target)
    module = f"{job.pins['module']}@v{job.pins['version']}"
    _check_sum(
        job, json.loads(_download_module(job, [str(go), "mod", "download", "-json", module], env))
    )
    package = f"{job.pins.get('package', job.pins['module'])}@v{job.pins['version']}"
    job.run([str(go), "install", *job.pins["flags"], package], cwd=job.work, env=env)
    (program,) = (target / "bin").iterdir()
    return program


def _go_env(job: Job, root: Path, target: Path) -> dict[str, str]:
    """Go's own settings: nothing of it outside the work folder, no other toolchain."""
    users = Path.home() / ".config" / "go" / "env"
    return {
        **job.env(),
        "GOROOT": str(root),
        "GOPATH": str(target),
        "GOBIN": str(target / "bin"),
        "GOMODCACHE": str(target / "mod"),
        "GOCACHE": str(target / "cache"),
        "GOENV": str(users) if users.is_file() else "off",
        "GOFLAGS": "-modcacherw",  # else the work folder could not be removed
        "GOTOOLCHAIN": "local",
        "GOTELEMETRY": "off",
        "CGO_ENABLED": "1",
        **offline.go_settings(),
    }


def _download_module(job: Job, argv: list[str], env: Mapping[str, str]) -> bytes:
    result = process.run_child(argv, env=env, cwd=job.work, stderr=job.log, lock_fds=[job.lock_fd])
    if not result.ok:
        said = _go_error(result.stdout) or _last_words(job.log).removeprefix(": ")
        raise MachineCannot(
            f"cannot get the Go module {argv[-1]}: {said}",
            hint="check the network, the proxy and GOPROXY, then run the same command again",
            code="E421",
        )
    return result.stdout


def _go_error(answer: bytes) -> str:
    try:
        return str(json.loads(answer).get("Error", "")).strip()
    except ValueError:
        return ""


def _check_sum(job: Job, module: Mapping[str, Any]) -> None:
    if module["Sum"] != job.pins["sum"]:
        raise MachineCannot(
            f"the Go module {module['Path']} {module['Version']} has the sum {module['Sum']}, "
            f"but {job.pins['sum']} is pinned",
            hint="the proxy serves another file; set GOPROXY to one that serves the original",
            code="E422",
        )


def _fresh(folder: Path) -> Path:
    """`folder`, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    errors = [line for line in lines[-200:] if "error" in line.lower()]
    last = (errors or lines or [""])[-1].strip()
    return f": {last[:300]}" if last else ""
