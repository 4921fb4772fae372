"""The measuring of benchmarks/gpu, up to the device: the same code on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import evidence, page, results
from benchmarks.gpu.cases import Case
from benchmarks.gpu.child import PHASES
from benchmarks.gpu.interpreter import Chosen
from tests.chain import ROOT
from tests.gpu.conftest import NO_GPU

# One layer of the smallest published shape: its vocabulary is most of it.
TINY = Case("qwen2.5-0.5b", "qlora", 1, 32, layers=1, steps=3, seconds=600)
PAIRS = Case("qwen2.5-0.5b", "dpo", 1, 32, layers=1, steps=3, seconds=600)
DEVICE = {"name": "Some GPU", "capability": "0.0", "memory": 10**11, "unified": False, "cuda": ""}


@pytest.fixture(scope="module")
def chosen(environment_python: Callable[[str], Path]) -> Chosen:
    stack = {"device": DEVICE, "python": "", "libraries": {}}
    return Chosen(environment_python("native"), True, stack)


@pytest.fixture(scope="module")
def rows(chosen: Chosen) -> dict[str, dict[str, Any]]:
    """What came of the two cases."""
    clock = evidence.Clock.of(1200)
    return {case.method: evidence.row_of(case, chosen, clock) for case in (TINY, PAIRS)}


def test_a_case_is_trained_and_evaluated_and_measured_by_phase(
    rows: dict[str, dict[str, Any]],
) -> None:
    row = rows["qlora"]
    assert row["state"] == "done", row
    assert list(row["phases"]) == [*PHASES, "evaluate"]
    for phase in row["phases"].values():
        assert 2 / 3 < phase["ratio"] < 4 / 3, row  # a processor's libraries vary in size


def test_pairs_are_trained(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["dpo"]
    assert row["state"] == "done", row
    assert list(row["phases"]) == list(PHASES)


def test_the_speed_is_of_the_steps_behind_the_warm_up(rows: dict[str, dict[str, Any]]) -> None:
    for row in rows.values():
        assert row["speed"]["steps"] == 1
        assert row["speed"]["tokens_per_second"] > 0


def test_what_came_out_is_a_row_of_the_page(
    rows: dict[str, dict[str, Any]], chosen: Chosen, tmp_path: Path
) -> None:
    found = {
        "stack": {**chosen.stack, "driver": "none"},
        "locked": True,
        "sources": results.sources_digest(),
        "cases": list(rows.values()),
        "tests": [],
    }
    results.write(found, tmp_path)
    assert "| Some GPU |" in page.page(results.read_all(tmp_path))


SAME = """
import json, sys, tempfile, torch
from pathlib import Path
from benchmarks.gpu import drawn
from benchmarks.gpu.cases import Case
from benchmarks.gpu.child import PHASES
from runner.scripts.training import base_model, tensor_reader

case = Case(**json.loads(sys.argv[1]))
before = tensor_reader._Reader.__getitem__, base_model.reads_by_tensor
with tempfile.TemporaryDirectory() as name:
    folder = drawn.write_model(Path(name) / "model", case)
    disk = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    settings = {"dtype": "bfloat16", "attn_implementation": "sdpa"}
    with drawn.drawn_weights(torch.device("cpu")):
        models = [base_model.read_model(folder, settings, torch.device("cpu")) for _ in range(2)]
weights = [dict(model.named_parameters()) for model in models]
after = tensor_reader._Reader.__getitem__, base_model.reads_by_tensor
matrices = [value for value in weights[0].values() if value.dim() == 2]
print(json.dumps({
    "disk": disk,
    "same": all(torch.equal(weights[1][name], value) for name, value in weights[0].items()),
    "other": len({float(each[0, 0]) for each in matrices}) == len(matrices),
    "spread": [float(each.float().std()) for each in matrices],
    "norm": float(weights[0]["model.norm.weight"].float().mean()),
    "parameters": sum(value.numel() for value in weights[0].values()),
    "restored": before == after,
}))
"""


def test_weights_are_drawn_alike_each_time_and_take_no_disk(chosen: Chosen) -> None:
    given = json.dumps(
        {"model": TINY.model, "method": "lora", "batch": 1, "length": 8, "layers": 1}
    )
    said = subprocess.run(
        [str(chosen.python), "-W", "ignore", "-c", SAME, given],
        env=evidence.script_env(Path(os.devnull)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-2000:]
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["disk"] < 1_000_000
    assert found["same"]
    assert found["other"]
    assert found["restored"]
    assert found["norm"] == 1.0
    assert found["parameters"] == TINY.shapes.parameters
    assert all(0.018 < spread < 0.022 for spread in found["spread"])


NAMES = """
import json, torch
from transformers import AutoConfig, AutoModelForCausalLM
from benchmarks.gpu import drawn
from benchmarks.gpu.cases import CASES, SEVENTY

found = {}
for case in {(each.model, each.layers): each for each in (*CASES, SEVENTY)}.values():
    config = dict(case.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config.pop("model_type"), **config))
    wanted = {name: list(value.shape) for name, value in model.named_parameters()}
    found[case.name] = wanted == dict(drawn.tensors(case.shapes))
print(json.dumps(found))
"""


def test_the_files_have_every_tensor_of_the_model_and_no_other(chosen: Chosen) -> None:
    """Of the 70B, too, which no processor here can hold."""
    said = subprocess.run(
        [str(chosen.python), "-W", "ignore", "-c", NAMES],
        env=evidence.script_env(Path(os.devnull)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-2000:]
    found = json.loads(said.stdout.splitlines()[-1])
    assert len(found) == 8
    assert [name for name, same in found.items() if not same] == []


def test_a_library_that_is_missing_is_told_and_nothing_is_trained(tmp_path: Path) -> None:
    """By the interpreter of these tests, which has no torch."""
    chosen = Chosen(Path(sys.executable), False, {"device": DEVICE})
    row = evidence.row_of(TINY, chosen, evidence.Clock.of(600))
    assert row["state"] == "not run"
    assert row["reason"].startswith("torch, transformers, peft")
    assert row["reason"].endswith("bitsandbytes is not installed")


def test_tests_of_the_gpu_are_never_green_without_one(tmp_path: Path) -> None:
    """Of this checkout, by an interpreter that has no torch."""
    report = tmp_path / "report.jsonl"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={tmp_path / 'tests'}",
            "tests/gpu/test_loading.py",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": str(tmp_path),
            "EVIDENCE_PYTHON": sys.executable,
            "SPARK_RECIPES_CACHE": str(tmp_path),
            "EVIDENCE_REPORT": str(report),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "tests/gpu needs a GPU and a torch that sees it" in done.stdout
    assert " passed" not in done.stdout
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["state"] for row in rows] == ["failed"] * len(rows)
    assert [row["name"] for row in rows] == [
        "test_loading.py::test_every_tensor_is_the_same[converted]",
        "test_loading.py::test_every_tensor_is_the_same[NF4]",
    ]
    assert {row["reason"] for row in rows} == {NO_GPU}


def test_make_test_collects_no_tests_of_the_gpu() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "\nTESTS ?= tests/unit tests/integration tests/e2e\n" in makefile
