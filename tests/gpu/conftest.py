"""Tests that need a GPU. `make test` does not collect them; `make gpu-evidence` runs them.

Without a GPU each fails and says so: nothing here is green that did not run on one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.children import FAILED, NOT_RUN
from benchmarks.gpu.gpu_tests import PASSED, REPORT, row
from benchmarks.gpu.interpreter import NAMED, Chosen, NoGpu, choose, locked_environment, probed
from runner.system import hardware
from tests.tiny_model import write_tiny_model
from tests.training_runs import SETTINGS, Finished, ScriptRun

# How a GPU is found, of what the scripts are otherwise not given.
PASSED_ON = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
NO_GPU = "tests/gpu needs a GPU and a torch that sees it (EVIDENCE_PYTHON names its interpreter)"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A line for each test as soon as it is known, so that those before a kill are not lost."""
    path = os.environ.get(REPORT)
    if path and (found := row_of(report)) is not None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


def row_of(report: pytest.TestReport) -> dict[str, str] | None:
    """What became of a test; None for a part of it that decides nothing."""
    name = report.nodeid.removeprefix("tests/gpu/")
    if report.skipped:
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return row(name, NOT_RUN, words.removeprefix("Skipped: "))
    if report.failed:
        return row(name, FAILED, _last_line(str(report.longrepr)))
    return row(name, PASSED) if report.when == "call" else None


def _last_line(words: str) -> str:
    """Of a failure what pytest shows of the error itself."""
    errors = [line[1:].strip() for line in words.splitlines() if line.startswith("E ")]
    return (errors or words.strip().splitlines() or [""])[0][:300]


@pytest.fixture(scope="session", autouse=True)
def stack() -> Chosen:
    """The interpreter of the scripts. Fails where none sees a GPU."""
    found = _chosen()
    if found is None:
        pytest.fail(NO_GPU, pytrace=False)
    return found


def _chosen() -> Chosen | None:
    gpus = hardware.gpus()
    try:
        return choose(
            os.environ.get(NAMED, ""),
            lambda: locked_environment(bool(gpus), print),
            os.environ.get("PATH", ""),
            print,
        )
    except NoGpu:
        return None


@pytest.fixture(scope="session")
def way_to_gpu(stack: Chosen) -> dict[str, str]:
    """Variables for the scripts. Fails where they would not see the GPU: they would use the
    processor then, and say nothing."""
    given = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if probed(stack.python, {"PATH": os.environ["PATH"], **given}) is None:
        pytest.fail(f"with {', '.join(PASSED_ON)} and PATH alone torch sees no GPU", pytrace=False)
    return given


@pytest.fixture(scope="session")
def needs(stack: Chosen) -> Callable[..., None]:
    """What a test needs beside torch; it is not run where that is missing, and says so."""

    def check(*libraries: str) -> None:
        absent = [name for name in libraries if not stack.stack["libraries"].get(name)]
        if absent:
            pytest.skip(f"{', '.join(absent)} is not installed")

    return check


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


Train = Callable[..., Finished]


@pytest.fixture
def train(
    stack: Chosen,
    way_to_gpu: dict[str, str],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Train:
    """Run a script of the native backend to its end; keywords replace settings."""

    def run(
        tokens: Path, *, base: Path = model, name: str = "train_native", **more: Any
    ) -> Finished:
        script = ScriptRun(
            stack.python,
            name,
            {"settings": SETTINGS | more, "save_steps": 1000},
            {"model": base, "tokens": tokens, "template": base / "chat_template.jinja"},
            tmp_path_factory.mktemp("training"),
        )
        return script.finish_cold(**way_to_gpu)

    return run
