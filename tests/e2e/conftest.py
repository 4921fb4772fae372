"""The quickstart, run once for all tests of the chain, in a copy of the checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chain import Checkout, copy_checkout
from tests.tiny_chain import write_tiny_chain


@dataclass(frozen=True)
class Quickstart:
    """The finished quickstart: where it ran, what it printed, and its run folder."""

    checkout: Checkout
    result: subprocess.CompletedProcess[str]
    folder: Path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh store, or the one that several test commands share."""
    shared = os.environ.get("SPARK_RECIPES_TEST_STORE")
    return Path(shared) if shared else tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def quickstart(
    tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, store: Path
) -> Quickstart:
    """`recipe run recipes/quickstart.yaml`, from data to a model in Ollama."""
    place = tmp_path_factory.mktemp("quickstart")
    checkout = copy_checkout(
        place / "checkout", cache=shared_cache, store=store, home=place / "home"
    )
    result = checkout.recipe("run", "recipes/quickstart.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    latest = checkout.folder / "runs" / "quickstart" / "latest"
    return Quickstart(checkout, result, latest.resolve())


@pytest.fixture(scope="session")
def make_tiny(shared_cache: Path) -> Callable[[Path], Checkout]:
    """place -> a copy of the checkout there, with a tiny recipe that ends with the merge."""

    def make(place: Path) -> Checkout:
        checkout = copy_checkout(
            place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
        )
        write_tiny_chain(checkout)
        return checkout

    return make


@pytest.fixture
def tiny(tmp_path: Path, make_tiny: Callable[[Path], Checkout]) -> Checkout:
    """A tiny recipe of the test's own."""
    return make_tiny(tmp_path)
