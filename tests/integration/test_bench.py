"""`recipe bench train` by the real command line, on a tiny model: figures, and nothing kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.chain import Checkout, copy_checkout
from tests.tiny_chain import write_tiny_chain
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def checkout(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    place = tmp_path_factory.mktemp("bench")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    write_tiny_chain(made)
    return made


def test_a_few_steps_are_measured_and_nothing_of_them_is_kept(checkout: Checkout) -> None:
    options = ["--steps", "4", "--warm-up", "2", "--format", "json"]
    done = checkout.recipe("bench", "train", "tiny.yaml", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["steps"], found["warm_up_left_out"]) == (4, 2)
    rates = found["tokens_per_second"]
    assert 0 < rates["supervised"] < rates["non_pad"] <= rates["padded"]
    seconds = found["seconds_per_step"]
    assert 0 < seconds["lower_quartile"] <= seconds["median"] <= seconds["upper_quartile"]
    assert 0 < found["mfu"] < 1
    assert found["peak_memory"] > 50e6
    store = checkout.folder.parent / "store"
    assert not list(store.glob("train/*"))
    assert list(store.glob("prepare/*"))
    assert not (checkout.folder / "runs").exists()


def test_a_training_that_fails_shows_the_end_of_its_log_and_its_code(checkout: Checkout) -> None:
    broken = write_tiny_model(checkout.folder / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = np.inf
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    done = checkout.recipe("bench", "train", "tiny.yaml", "--steps=2", "--set=model.path=broken")
    assert done.returncode == 1
    assert "error[E945]: the base model computes numbers that are none" in done.stderr
    assert "\nE945: the base model" in done.stderr
