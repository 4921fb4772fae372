"""One recipe that trains, evaluates and compares two models: really run, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout, copy_checkout
from tests.tiny_chain import RECIPE, write_tiny_chain

SMALL = (
    RECIPE.replace("name: tiny", "name: small")
    .replace("STEPS", "1")
    .replace("save_steps: 5\n", "save_steps: 50\n")
)
SMALL = SMALL.replace("  max_length", "  validation: {fraction: 0.8}\n  max_length")
SMALL = SMALL.replace("samples: 2, max_new_tokens: 4", "samples: 0, metrics: true").replace(
    "merge: {}\n", ""
)
LARGE = SMALL.replace("name: small", "name: large").replace("max_steps: 1", "max_steps: 2")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Checkout:
    """large.yaml, which is compared with small.yaml."""
    place = tmp_path_factory.mktemp("compared")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    write_tiny_chain(made)
    (made.folder / "small.yaml").write_text(SMALL)
    (made.folder / "large.yaml").write_text(LARGE + "compare: {recipes: [small.yaml]}\n")
    return made


def run(checkout: Checkout, *words: str) -> dict[str, Any]:
    done = checkout.recipe("run", *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def manifest(folder: Path) -> bytes:
    return (folder / "manifest.json").read_bytes()


def test_one_command_from_two_recipes_to_the_page_and_what_becomes_of_it(
    checkout: Checkout,
) -> None:
    runs = checkout.folder / "runs"
    told = run(checkout, "large.yaml")
    folder, page = Path(told["run"]), Path(told["compare"]["page"])
    assert page == folder / "compare.html"
    assert told["compare"]["made"]

    # what `recipe compare` of both writes, and nothing of it in the manifest
    by_hand = checkout.recipe("compare", "runs/small", "runs/large", "-o", "by-hand")
    assert by_hand.returncode == 0, by_hand.stderr
    for name in ("compare.html", "compare.json"):
        assert (folder / name).read_bytes() == (checkout.folder / "by-hand" / name).read_bytes()
    assert b"compare" not in manifest(folder)
    verified = checkout.recipe("verify", str(folder))
    assert verified.returncode == 0, verified.stdout
    (held,) = (
        each
        for found in json.loads((folder / "compare.json").read_text())["comparisons"]
        if {found["first"], found["second"]} == {"small", "large"}
        for each in found["held"]
        if each["kind"] == "row"
    )
    assert held["same"]

    # all is there; a page that is gone is made again
    again = run(checkout, "large.yaml")
    assert (again["state"], again["compare"]["made"]) == ("up-to-date", False)
    page.unlink()
    assert run(checkout, "large.yaml")["compare"]["made"]

    # another small model: the page is made again, the large one and its manifest stay
    before = manifest(folder)
    (checkout.folder / "small.yaml").write_text(SMALL.replace("r: 4,", "r: 2,"))
    changed = run(checkout, "large.yaml")
    assert (changed["state"], changed["run"]) == ("up-to-date", str(folder))
    assert changed["compare"]["made"]
    assert manifest(folder) == before
    newest = (runs / "small" / "latest").resolve()
    models = json.loads((folder / "compare.json").read_text())["models"]
    assert {model["run"] for model in models} == {str(newest), str(folder)}

    # what it was compared with stays in the store while this run is there
    shutil.rmtree(runs / "small")
    collected = checkout.recipe("gc")
    assert collected.returncode == 0, collected.stderr
    plan = json.loads(checkout.recipe("plan", "large.yaml", "--format", "json").stdout)
    assert {each["action"] for each in plan["compared"][0]["stages"]} == {"reuse"}

    # the lock holds both recipes, and is run by itself
    locked = checkout.recipe("lock", "large.yaml")
    assert locked.returncode == 0, locked.stderr
    (checkout.folder / "small.yaml").unlink()
    by_lock = run(checkout, "large.lock.yaml", "--locked")
    assert (by_lock["state"], by_lock["run"]) == ("up-to-date", str(folder))
    assert by_lock["compare"]["made"]  # of the run that was deleted, made again from the store
    bundled = checkout.recipe("bundle", str(folder), "--output", "x.tar")
    assert bundled.returncode == 0, bundled.stderr
    unpacked = checkout.recipe("run", "x.tar", "--into", "there", "--format", "json")
    assert unpacked.returncode == 0, unpacked.stderr
    assert (
        "small"
        not in unpacked.stdout + (checkout.folder / "there" / "recipe.lock.yaml").read_text()
    )
