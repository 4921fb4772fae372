"""Tests that need a GPU. `make test` does not collect them; `make gpu-evidence` runs them.

Without a GPU each fails and says so: nothing here is green that did not run on one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.interpreter import NAMED, Chosen, NoGpu, choose, locked_environment
from runner.system import hardware
from tests.tiny_model import write_tiny_model
from tests.training_runs import SETTINGS, Finished, ScriptRun

NO_GPU = "tests/gpu needs a GPU and a torch that sees it (EVIDENCE_PYTHON names its interpreter)"


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
def train(stack: Chosen, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
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
        return script.finish_cold()

    return run
