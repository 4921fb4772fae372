"""What `recipe doctor` says of machines that are not this one, and of this one."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner.cli import doctor
from runner.cli.main import main
from runner.doctor import gpu, kernel, places
from runner.doctor.check import Check, State
from runner.doctor.recipe import memory_now
from runner.doctor.settings import settings
from runner.errors import MachineCannot
from runner.plan.cost import Cost, Machine
from runner.plan.job import Item, Memory
from runner.system import hardware
from tests.small_recipe import write_recipe

GB = 1_000_000_000
SPARK = {
    "dev/nvidia0": "",
    "proc/driver/nvidia/gpus/000f/information": "Model: \t\t NVIDIA GB10\n",
    "sys/module/nvidia/version": "580.95.05\n",
}
TORCH: dict[str, Any] = {
    "torch": "2.13.0",
    "cuda": "13.0",
    "available": True,
    "capability": [12, 1],
    "architectures": ["sm_100", "sm_120"],
    "bf16": True,
}


def machine(root: Path, files: Mapping[str, str] = {}, **meminfo: int) -> Path:
    """`meminfo` in bytes, over a machine with 128 GB, nearly all of it free."""
    known = {"MemTotal": 128 * GB, "MemFree": 120 * GB, "MemAvailable": 120 * GB} | meminfo
    lines = "".join(f"{name}: {size // 1024} kB\n" for name, size in known.items())
    for name, text in {"proc/meminfo": lines, "proc/self/cgroup": "0::/\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def states(checks: Any) -> dict[str, str]:
    return {check.name: str(check.state) for check in checks}


def process(pid: int, name: str, size: int) -> dict[str, str]:
    return {f"proc/{pid}/status": f"Name:\t{name}\nVmRSS:\t{size // 1024} kB\n"}


def test_memory_that_others_hold_is_told_with_their_names(tmp_path: Path) -> None:
    files = process(7, "ollama", 70 * GB) | process(8, "python", 9 * GB) | process(9, "sh", 10**6)
    (check,) = kernel.memory(machine(tmp_path, files, MemAvailable=30 * GB), unified=False)
    assert check.state is State.WARNING
    assert "30.0 GB of 128.0 GB" in check.found
    assert "ollama (pid 7) has 70.0 GB; python (pid 8) has 9.0 GB" in check.found
    assert "sh" not in check.found.split()


def test_page_cache_counts_where_the_gpu_shares_the_memory(tmp_path: Path) -> None:
    root = machine(tmp_path, MemFree=5 * GB, Cached=90 * GB, MemAvailable=95 * GB)
    assert states(kernel.memory(root, unified=False)) == {"memory": "ok"}
    checks = list(kernel.memory(root, unified=True))
    assert states(checks) == {"memory": "ok", "page cache": "note"}
    assert "drop_caches" in checks[1].fix  # shown, never run


@pytest.mark.parametrize(
    ("total", "free", "state"),
    [
        (0, 0, "ok"),
        (16 * GB, 16 * GB, "ok"),
        (16 * GB, 15 * GB, "ok"),
        (16 * GB, 2 * GB, "warning"),
    ],
)
def test_swap_in_use_is_a_warning(total: int, free: int, state: str, tmp_path: Path) -> None:
    check = kernel.swap(machine(tmp_path, SwapTotal=total, SwapFree=free))
    assert check.state == state


def test_a_limit_is_good_and_none_is_told(tmp_path: Path) -> None:
    assert kernel.limit(machine(tmp_path / "free")).state is State.NOTE
    v2 = {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/memory.max": str(100 * GB)}
    check = kernel.limit(machine(tmp_path / "v2", v2))
    assert (check.state, "100.0 GB of the machine's 128.0 GB" in check.found) == (State.OK, True)
    v1 = {
        "proc/self/cgroup": "4:memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(64 * GB),
    }
    assert "64.0 GB" in kernel.limit(machine(tmp_path / "v1", v1)).found


def test_a_clock_of_the_past_is_a_problem() -> None:
    assert kernel.clock().state is State.OK
    check = kernel.clock(0.0)
    assert check.state is State.PROBLEM
    assert check.found.startswith("it says 1970-01-01")


def test_a_spark_shares_its_memory(tmp_path: Path) -> None:
    root = machine(tmp_path, SPARK)
    assert gpu.is_unified(root)
    found = {check.name: check for check in gpu.gpus(root, tmp_path / "cache")}
    assert found["gpu"].found == "NVIDIA GB10; driver 580.95.05"
    assert "MemAvailable counts" in found["gpu memory"].found
    assert "not built yet" in found["torch"].found
    assert found["ptxas"].found.startswith("the GPU is sm_121")  # its name is enough
    (none,) = gpu.gpus(machine(tmp_path / "none"), tmp_path)
    assert (none.state, gpu.is_unified(tmp_path / "none")) == (State.NOTE, False)


@pytest.mark.parametrize(
    ("version", "state"), [("580.95.05", {}), ("575.1", {"driver": "problem"}), ("unknown", {})]
)
def test_the_driver_has_to_be_as_new_as_cuda(version: str, state: dict[str, str]) -> None:
    assert states(gpu.driver(version)) == state


def test_who_computes_on_the_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "7, /opt/python, 9000 MiB\n8, a name, with a comma, [N/A]\n"
    program(tmp_path / "bin" / "nvidia-smi", lines.strip())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = hardware.gpu_users()
    assert found == [(7, "/opt/python", "9000 MiB"), (8, "a name, with a comma", "[N/A]")]
    (check,) = gpu.users(found)
    assert (check.state, list(gpu.users([]))) == (State.WARNING, [])
    assert check.found.startswith("/opt/python (pid 7): 9000 MiB; ")


class Loaded(BaseHTTPRequestHandler):
    """An Ollama that holds a model."""

    def do_GET(self) -> None:
        answers = {
            "/api/version": {"version": "1"},
            "/api/ps": {"models": [{"name": "small", "size": GB}, {"name": "big", "size": 9 * GB}]},
        }
        body = json.dumps(answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_the_models_that_ollama_keeps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Loaded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
        check = places.servers(Path("none"))
        server.shutdown()
    assert check.state is State.WARNING
    assert "holds big with 9.0 GB, small with 1.0 GB" in check.found
    assert check.fix == "ollama stop big"


@pytest.mark.parametrize(
    ("change", "expected", "said"),
    [
        ({}, {"torch": "ok"}, "sm_121 runs by compatibility"),
        ({"capability": [12, 0]}, {"torch": "ok"}, "built for sm_120"),
        ({"capability": [7, 5]}, {"torch": "problem"}, "the GPU is sm_75"),
        ({"available": False, "capability": None}, {"torch": "problem"}, "finds no GPU"),
        ({"bf16": False}, {"torch": "ok", "bfloat16": "warning"}, "compatibility"),
    ],
)
def test_torch_has_to_be_built_for_the_gpu(
    change: dict[str, Any], expected: dict[str, str], said: str
) -> None:
    checks = list(gpu.torch_checks(TORCH | change))
    assert states(checks) == expected
    assert said in checks[0].found


def test_torch_that_does_not_load_is_a_problem(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert gpu.ask_torch(python) == {}
    assert gpu.ask_torch(tmp_path / "none") == {}
    assert states(gpu.torch_checks({})) == {"torch": "problem"}


def program(path: Path, words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{words}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("on_path", "named", "state", "said"),
    [
        (None, None, "warning", "Triton's own is used"),
        ("sm_120 sm_121", None, "warning", "Triton is not told"),
        ("sm_120", None, "warning", "does not know it"),
        (None, "sm_120 sm_121", "ok", "knows sm_121"),
        (None, "sm_120", "warning", "does not know it"),
    ],
)
def test_the_assembler_has_to_know_the_gpu(
    on_path: str | None, named: str | None, state: str, said: str, tmp_path: Path
) -> None:
    environ = {"PATH": str(tmp_path / "bin")}
    if on_path:
        program(tmp_path / "bin" / "ptxas", on_path)
    if named:
        environ["TRITON_PTXAS_PATH"] = str(program(tmp_path / "own" / "ptxas", named))
    (check,) = gpu.assembler([12, 1], environ)
    assert check.state == state
    assert said in check.found
    if state == "warning":
        assert check.fix.startswith("export TRITON_PTXAS_PATH=")


def test_an_older_gpu_needs_no_other_assembler(tmp_path: Path) -> None:
    assert list(gpu.assembler([9, 0], {"PATH": str(tmp_path)})) == []


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {"cache": 5 * GB, "store": 500 * GB}
    monkeypatch.setattr(hardware, "disk_free", lambda path: room[path.name])
    checks = list(places.folders(tmp_path / "cache", tmp_path / "store"))
    assert states(checks) == {"cache": "warning", "store": "ok"}
    assert "SPARK_RECIPES_CACHE" in checks[0].fix


@pytest.mark.parametrize(
    ("place", "found"), [("/proc/nostore", "nothing is free"), ("file/store", "cannot be written")]
)
def test_a_store_where_nothing_can_be_made_is_a_problem(
    place: str, found: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("#!/bin/sh\n")
    (tmp_path / "file").chmod(0o755)  # which root may "enter"
    check = list(places.folders(tmp_path, tmp_path / place))[1]
    assert (check.name, check.state) == ("store", State.PROBLEM)
    assert found in check.found
    assert "SPARK_RECIPES_STORE" in check.fix


@pytest.mark.parametrize(
    ("name", "value", "state", "said"),
    [
        ("MEMORY_LIMIT", "lots", "problem", "is no size of memory: lots"),
        ("MEMORY_LIMIT", "110GB", "ok", "may use 110.0 GB"),
        ("RAY", "here", "problem", "'here' is not HOST:PORT"),
        ("RAY", "head:99999", "problem", "is not HOST:PORT"),
        ("RAY", "head:6379", "ok", "the Ray cluster at head:6379"),
        ("PREBUILT", "/proc/none", "warning", "there is no folder /proc/none"),
        ("PREBUILT", "/proc", "ok", "/proc"),
    ],
)
def test_a_variable_that_would_end_every_run_is_a_problem(
    name: str, value: str, state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SPARK_RECIPES_{name}", value)
    (check,) = [each for each in settings() if each.name == f"SPARK_RECIPES_{name}"]
    assert (check.state, said in check.found) == (state, True)
    assert bool(check.fix) == (state != "ok")


def test_what_is_not_set_is_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMORY_LIMIT", "RAY", "PREBUILT"):
        monkeypatch.setenv(f"SPARK_RECIPES_{name}", "")
    assert list(settings()) == []


def test_a_bad_variable_ends_the_doctor_with_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARK_RECIPES_MEMORY_LIMIT", "lots")
    assert main(["doctor"]) == 4
    assert "problem  SPARK_RECIPES_MEMORY_LIMIT: " in capsys.readouterr().out


def test_an_ollama_that_is_named_has_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    check = places.servers(tmp_path)
    assert check.state is State.PROBLEM
    assert "127.0.0.1:9" in check.found


def test_a_name_of_an_ollama_that_is_none_is_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "localhost:abc")
    check = places.servers(tmp_path)
    assert (check.state, '"localhost:abc"' in check.found) == (State.PROBLEM, True)
    assert "HOST:PORT" in check.fix


def fifty_gigabytes(machine: Machine) -> Cost:
    return Cost(
        backend="native",
        parameters=8,
        trained=8,
        memory={"train": Memory((Item("weights", 50 * GB),))},
        disk=(),
        time=(),
        steps=1,
        machine=machine,
        unknown="",
        where="",
    )


def test_the_hosts_memory_says_nothing_of_a_gpus_own() -> None:
    cost = fifty_gigabytes(Machine(2, "NVIDIA H200", "there", 140 * GB))
    (check,) = memory_now(cost, hardware.Memory(64 * GB, 20 * GB))
    assert (check.state, "NVIDIA H200 has 140.0 GB" in check.found) == ("ok", True)


@pytest.mark.parametrize(("available", "state"), [(60 * GB, "ok"), (20 * GB, "warning")])
def test_memory_has_to_be_free_now(available: int, state: str) -> None:
    cost = fifty_gigabytes(Machine(2, "", "here", 128 * GB))
    (check,) = memory_now(cost, hardware.Memory(128 * GB, available))
    assert check.state == state
    assert "50.0 GB at the peak" in check.found


def test_the_command_says_all_of_it_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPARK_RECIPES_STORE", raising=False)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    write_recipe(tmp_path / "x.yaml")
    before = sorted(tmp_path.rglob("*"))
    status = main(["doctor", str(tmp_path / "x.yaml"), "--format", "json"])
    told = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in told["checks"]]
    assert {"memory", "swap", "clock", "cache", "store", "ollama", "builds for it"} <= set(names)
    assert status == (4 if "problem" in {check["state"] for check in told["checks"]} else 0)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_planned_here_is_a_check_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_address(*_: object) -> Any:
        raise MachineCannot("OLLAMA_HOST is no address", hint="write HOST", code="E440")

    write_recipe(tmp_path / "x.yaml")
    monkeypatch.setattr("runner.plan.chain.plan_chain", no_address)
    monkeypatch.setattr("runner.cli.doctor.of_machine", lambda root: [Check("gpu", State.OK, "a")])
    assert main(["doctor", str(tmp_path / "x.yaml")]) == 4
    out = capsys.readouterr().out
    assert "ok       gpu: a\nproblem  recipe: OLLAMA_HOST is no address\n" in out
    assert "fix: write HOST" in out


def test_a_problem_ends_with_4(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Check("clock", State.PROBLEM, "it stands", "downloads fail", "wind it up")
    monkeypatch.setattr(doctor, "of_machine", lambda root: iter([bad]))
    assert main(["doctor"]) == 4
    text = doctor.as_text([bad])
    assert text.splitlines() == [
        "problem  clock: it stands",
        "         why: downloads fail",
        "         fix: wind it up",
        "1 to look at",
    ]
