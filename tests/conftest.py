"""Fixtures that every kind of test shares. No test touches the real home, runs or Ollama models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("spark-recipes", deadline=None)
settings.load_profile("spark-recipes")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker, where its costly fixtures are made once.

    Unit tests have none and go wherever there is room.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None and "unit" not in item.path.parts:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
