"""Tokens, merge and quantiser on arm64 give the bytes of x86-64: under qemu-user, two processors.

The control is plain arithmetic: BLAS on arm64 gives other numbers.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType

from runner.system import determinism
from tests import arm64
from tests.portable_model import PREPARED, write_adapter_of, write_rows, write_wide_model
from tests.script_runs import SCRIPTS, run_script

PROCESSORS = ("neoverse-n1", "max")  # without and with SVE
KINDS = ("F16", "Q8_0", "Q4_K_M", "Q6_K", "IQ4_XS", "Q2_K", "Q5_K_S")
ASK = """
import hashlib, platform
import numpy as np
random = np.random.default_rng(1)
a, b = (random.standard_normal((97, 301), np.float32) for _ in "ab")
print(platform.machine(), hashlib.sha256(np.ascontiguousarray(a @ b.T)).hexdigest())
"""


@pytest.fixture(scope="module")
def machine(shared_cache: Path) -> arm64.Machine:
    return arm64.machine(shared_cache, arm64.numpy_alone(shared_cache))


@pytest.fixture(scope="module")
def quantiser(shared_cache: Path) -> Path:
    return arm64.quantiser(shared_cache)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("wide") / "model")


@pytest.fixture(scope="module")
def source(
    model: Path,
    llama_cpp: Path,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The model as the converter writes it, on this machine."""
    file = tmp_path_factory.mktemp("source") / "source.gguf"
    program = [environment_python("export"), SCRIPTS, "convert_gguf"]
    what = [llama_cpp / "convert_hf_to_gguf.py", model, "--outfile", file, "--outtype", "f32"]
    subprocess.run([*program, *what], env=env(), capture_output=True, check=True)
    return file


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def env() -> dict[str, str]:
    """Variables for threads; what caps an x86 processor says nothing to this one."""
    return {"PATH": "/usr/bin:/bin"} | determinism.script_env(2)


def test_it_is_another_machine(
    machine: arm64.Machine, environment_python: Callable[[str], Path]
) -> None:
    here = subprocess.run(
        [environment_python("export"), "-c", ASK],
        env=env(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    there = machine.python("-c", ASK, cpu=PROCESSORS[0], env=env())
    assert there.returncode == 0, there.stderr
    name, digest = there.stdout.split()
    assert name == "aarch64"
    assert digest != here[1]


def both(
    machine: arm64.Machine,
    python: Path,
    name: str,
    hashed: dict[str, Any],
    inputs: dict[str, Path],
    place: Path,
    cpu: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of what a script writes on this machine and on the other one."""
    here = run_script(python, name, hashed, inputs, place / "here", **determinism.script_env(2))
    assert here.returncode == 0, here.log
    there = place / "there"
    for part in ("out", "scratch"):
        (there / part).mkdir(parents=True)
    spec = json.loads((place / "here" / "spec.json").read_text())
    spec["where"] |= {
        "folder": str(there / "out"),
        "scratch": str(there / "scratch"),
        "events": str(there / "events.jsonl"),
    }
    (there / "spec.json").write_text(json.dumps(spec))
    ran = machine.python(SCRIPTS, name, there / "spec.json", cpu=cpu, env=env())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return digests(here.folder), digests(there / "out")


@pytest.mark.parametrize(
    ("dtype", "dora", "cpu"),
    [
        ("bfloat16", False, PROCESSORS[0]),
        ("bfloat16", True, PROCESSORS[1]),
        ("float16", False, PROCESSORS[1]),
        ("float32", True, PROCESSORS[0]),
    ],
)
def test_the_merged_model_is_the_same(
    machine: arm64.Machine,
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path: Path,
    dtype: str,
    dora: bool,
    cpu: str,
) -> None:
    inputs = {"model": model, "template": model / "chat_template.jinja"}
    inputs["adapter"] = write_adapter_of(model, tmp_path / "adapter", dora=dora)
    python = environment_python("export")
    here, there = both(machine, python, "merge", {"dtype": dtype}, inputs, tmp_path, cpu)
    assert there == here
    assert "model/model.safetensors" in here


@pytest.mark.full  # importing transformers takes a minute there
def test_the_tokens_are_the_same(
    shared_cache: Path,
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path: Path,
) -> None:
    machine = arm64.machine(shared_cache, arm64.data_packages(shared_cache))
    inputs = {"model": model, "train-0": write_rows(tmp_path / "rows.jsonl")}
    python = environment_python("data")
    here, there = both(machine, python, "prepare", PREPARED, inputs, tmp_path, PROCESSORS[1])
    assert there == here
    assert {"train.tokens.safetensors", "validation.tokens.safetensors"} <= set(here)


@pytest.mark.full  # the quantiser compiles for minutes
@pytest.mark.parametrize("kind", KINDS)
def test_the_quantised_file_is_the_same(
    machine: arm64.Machine,
    quantiser: Path,
    llama_cpp: Path,
    source: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    here, there = tmp_path / "here.gguf", tmp_path / "there.gguf"
    program = llama_cpp / "bin" / "llama-quantize"
    subprocess.run([program, source, here, kind], capture_output=True, check=True)
    for cpu in PROCESSORS:
        ran = machine.run([quantiser, source, there, kind], cpu=cpu, env=env())
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert there.read_bytes() == here.read_bytes()


@pytest.mark.full
def test_without_our_flag_the_quantiser_would_give_other_bytes_on_arm64(
    machine: arm64.Machine, shared_cache: Path
) -> None:
    """The control: fused multiply-adds change Q4_K, and leave Q8_0 alone."""

    def rows(kind: GGMLQuantizationType, *, contracting: bool) -> str:
        program = arm64.rows_quantiser(shared_cache, contracting=contracting)
        return machine.digest_of(program, str(int(kind)), cpu=PROCESSORS[0], env=env())

    changed = {
        kind.name
        for kind in (GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q8_0)
        if rows(kind, contracting=True) != rows(kind, contracting=False)
    }
    assert changed == {"Q4_K"}
