"""A recipe that extends another, run for real with `--set`, locked, and taken away in a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner.recipe.source import read_source
from tests.chain import Checkout, copy_checkout
from tests.tiny_chain import RECIPE, write_tiny_chain

UNTIL = ("--until", "prepare")
SET = ("--set", "train.learning_rate=1e-3", "--set", "data.max_length=200")


@pytest.fixture
def checkout(tmp_path: Path, shared_cache: Path) -> Checkout:
    """child.yaml upon shared/base.yaml, and flat.yaml, which says the same with SET."""
    made = copy_checkout(
        tmp_path / "checkout", cache=shared_cache, store=tmp_path / "store", home=tmp_path / "home"
    )
    write_tiny_chain(made)
    whole = RECIPE.replace("STEPS", "12").replace("name: tiny\n", "name: child\n")
    (made.folder / "flat.yaml").write_text(
        whole.replace("max_length: 256", "max_length: 200").replace(
            "  max_steps", "  learning_rate: 1.0e-3\n  max_steps"
        )
    )
    base = whole.replace("name: child\n", "abstract: true\n").replace("path: ", "path: ../")
    (made.folder / "shared").mkdir()
    (made.folder / "shared" / "base.yaml").write_text(base.replace("r: 4, ", ""))
    (made.folder / "child.yaml").write_text(
        "extends: shared/base.yaml\nname: child\ntrain: {adapter: {r: 4}}\n"
    )
    return made


def test_a_run_with_bases_and_options_is_kept_whole(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.recipe("run", "child.yaml", *SET, *UNTIL)
    assert done.returncode == 0, done.stderr
    run = (checkout.folder / "runs" / "child" / "latest").resolve()
    record = json.loads((run / "run.json").read_text())
    assert record["set"] == {"train.learning_rate": 0.001, "data.max_length": 200}
    assert record["bases"] == ["shared/base.yaml"]
    locked = read_source(run / "recipe.lock.yaml").data["recipe"]
    assert (locked["train"]["learning_rate"], locked["data"]["max_length"]) == (0.001, 200)
    assert not {"extends", "abstract"} & set(locked)

    for recipe in (["child.yaml", *SET], ["flat.yaml"]):
        same = checkout.recipe("run", *recipe, *UNTIL)
        assert "Everything is up to date" in same.stdout, same.stdout + same.stderr
    again = checkout.recipe("run", str(run / "recipe.lock.yaml"), "--locked", *UNTIL)
    assert "Everything is up to date" in again.stdout, again.stderr
    other = checkout.recipe("plan", "child.yaml", *UNTIL)
    assert "prepare    run" in other.stdout, other.stdout

    bundle = checkout.recipe("bundle", str(run), "--output", "x.tar")
    assert bundle.returncode == 0, bundle.stderr
    for name in ("shared", "model", "runs"):
        shutil.rmtree(checkout.folder / name)
    for name in ("child.yaml", "flat.yaml", "tiny.yaml", "rows.jsonl"):
        (checkout.folder / name).unlink()
    offline = checkout.recipe(
        "run", "x.tar", "--offline", SPARK_RECIPES_STORE=str(tmp_path / "another-store")
    )
    assert offline.returncode == 0, offline.stdout + offline.stderr
    assert "the same bytes as in the bundle: manifest" in offline.stderr


def test_an_edited_base_makes_the_lock_stale_and_is_named(checkout: Checkout) -> None:
    assert checkout.recipe("lock", "child.yaml").returncode == 0
    assert checkout.recipe("lock", "child.yaml", "--check").returncode == 0
    with_option = checkout.recipe("run", "child.yaml", *SET, "--locked")
    assert with_option.returncode == 2
    assert "error[E133]" in with_option.stderr
    base = checkout.folder / "shared" / "base.yaml"
    base.write_text(base.read_text().replace("lora_alpha: 8", "lora_alpha: 16"))
    stale = checkout.recipe("lock", "child.yaml", "--check")
    assert stale.returncode == 5
    assert "recipe.train.adapter.lora_alpha: 8 → 16" in stale.stdout
