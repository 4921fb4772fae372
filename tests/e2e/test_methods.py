"""Every method's shipped recipe does what it is for, on a real model, and its control does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout, copy_checkout
from tests.method_results import METHODS, Method, read_record, results_of

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def checkout(shared_cache: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    place = tmp_path_factory.mktemp("methods")
    return copy_checkout(place / "checkout", cache=shared_cache, store=store, home=place / "home")


@pytest.fixture(scope="module", params=METHODS.values(), ids=METHODS.keys())
def trained(request: pytest.FixtureRequest, checkout: Checkout) -> tuple[Method, dict[str, Any]]:
    """A method, and what its recipe and its control came to just now."""
    method: Method = request.param
    return method, results_of(method, checkout)


def better(method: Method, value: float) -> float:
    """`value` as its distance from where nothing was learned, positive if it is better."""
    return (method.neutral - value) if method.lower else (value - method.neutral)


def test_the_recipe_moves_its_measure_on_held_out_rows_and_the_control_does_not(
    trained: tuple[Method, dict[str, Any]],
) -> None:
    method, found = trained
    recipe, control = found["recipe"], found["control"]
    assert recipe["held_out"] >= 30
    worst = min(better(method, recipe[end]) for end in ("low", "high"))
    best = max(better(method, control[end]) for end in ("low", "high"))
    assert worst > 0
    assert worst > best, "the intervals of recipe and control overlap"
    assert abs(better(method, control["value"])) < better(method, recipe["value"]) / 3


def test_the_record_has_what_came_out_where_it_was_made(
    trained: tuple[Method, dict[str, Any]],
) -> None:
    """Bytes are equal on one platform; elsewhere the numbers are near."""
    method, found = trained
    recorded = read_record()[method.name]
    assert found["sources"] == recorded["sources"]
    if found["platform"] == recorded["platform"]:
        assert found == recorded
    else:
        low, high = recorded["recipe"]["low"], recorded["recipe"]["high"]
        slack = high - low
        assert low - slack <= found["recipe"]["value"] <= high + slack
