"""Fixtures that every kind of test shares. No test touches the real home, runs or Ollama models."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("spark-recipes", deadline=None)
settings.load_profile("spark-recipes")

# Files that share a costly fixture, or would disturb each other: they go to one worker.
TOGETHER = {
    "tests/e2e/test_course_data.py": "quickstart",
    "tests/e2e/test_docs.py": "quickstart",
    "tests/e2e/test_full_fine_tuning.py": "quickstart",
    "tests/e2e/test_kills.py": "quickstart",
    "tests/e2e/test_quickstart.py": "quickstart",
    "tests/e2e/test_variations.py": "quickstart",
    "tests/integration/test_crash.py": "crash",
    "tests/integration/test_power_loss.py": "crash",
    "tests/integration/test_course_recipes.py": "ollama",
    "tests/integration/test_benchmark.py": "ollama",
    "tests/integration/test_ollama.py": "ollama",
    "tests/integration/test_judge.py": "ollama",
    "tests/integration/test_synthesis.py": "ollama",
}

# Where environments and tools were built: kept between test runs, since they are what is heavy.
_CACHE = Path(
    os.environ.get("SPARK_RECIPES_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spark-recipes"
)


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """The cache folder with environments and tools. Stores of tests lie elsewhere."""
    return _CACHE


@pytest.fixture(scope="session")
def environment_python(shared_cache: Path) -> Callable[[str], Path]:
    """role -> the interpreter of its hash-locked environment, built if it is missing."""
    from runner.system import environments

    def python(role: str) -> Path:
        return environments.ensure(role, shared_cache, print).python

    return python


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C is one of the inputs, also where a shell in the background told us to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file on one worker, where its costly fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return worker_scope(nodeid)

    return ByFile(config, log)


def worker_scope(nodeid: str) -> str:
    """What goes to one worker: a file, or files that belong together, or one unit test."""
    file = nodeid.split("::")[0]
    return nodeid if file.startswith("tests/unit/") else TOGETHER.get(file, file)
