"""The setting that has rows prepared by a Ray cluster: where it is told, and where it is not."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from runner.errors import StageFailed
from runner.execution import ready
from runner.lock.pins import environment_pins
from runner.plan.snapshot import read_surroundings
from runner.recipe.load import load_recipe
from runner.stages import stages_of
from runner.stages.rows.cluster import ADDRESS, by_cluster, loss_is_told
from tests.chain import ROOT


@pytest.fixture
def open_address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def test_it_enters_neither_keys_nor_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    stages = stages_of(recipe, "prepare")
    before = read_surroundings(recipe, stages), environment_pins(recipe)
    assert "ray" not in ready.roles(recipe, stages)
    assert by_cluster() == {}
    monkeypatch.setenv(ADDRESS, "10.0.0.1:6379")
    assert (read_surroundings(recipe, stages), environment_pins(recipe)) == before
    assert "ray" in ready.roles(recipe, stages)
    assert "ray" not in ready.roles(recipe, stages_of(recipe, "fetch"))
    assert by_cluster() == {"environment": "ray", "outside": {ADDRESS: "10.0.0.1:6379"}}


def test_its_environment_has_the_packages_of_data_at_the_same_versions() -> None:
    def pinned(role: str) -> set[str]:
        text = (ROOT / "environments" / f"{role}.txt").read_text(encoding="utf-8")
        return set(re.findall(r"^[\w.-]+==[^\\\n]+", text, re.MULTILINE))

    assert len(pinned("data")) > 20
    assert pinned("data") <= pinned("ray")


def failed_by(code: str) -> str:
    """The code of what is raised."""
    with pytest.raises(StageFailed) as caught, loss_is_told():
        raise StageFailed("ended", code=code, stage="prepare", log="a.log")
    assert (caught.value.stage, caught.value.log) == ("prepare", "a.log")
    return caught.value.code


def test_a_cluster_that_is_gone_is_named(
    monkeypatch: pytest.MonkeyPatch, open_address: str, closed_address: str
) -> None:
    assert failed_by("E500") == "E500"
    monkeypatch.setenv(ADDRESS, open_address)
    assert failed_by("E500") == "E500"
    monkeypatch.setenv(ADDRESS, closed_address)
    assert failed_by("E500") == "E376"
    assert failed_by("E322") == "E322"  # the script had words of its own
