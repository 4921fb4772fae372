"""What a run of a bundle takes from it, and how its results are compared with the bundle's."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.bundle.archive import open_archive
from runner.bundle.given import Given, given_by
from runner.bundle.unpacked import compare_with_bundle
from runner.cli import run as run_command
from runner.errors import NotReproduced, UsageError
from runner.plan.keys import Surroundings, key_material, key_of
from runner.plan.snapshot import file_digests
from runner.recipe.load import load_recipe
from runner.stages import fetch, fetch_data
from tests.bundles import Forger, small_run

COMMIT = "c" * 40


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that holds what would be fetched."""
    forger = Forger.of(small_run(tmp_path / "there").bundle(tmp_path / "good.tar"))
    forger.put("fetched/fetch/model/config.json", b"{}")
    forger.put("fetched/fetch_data/data/train-0.jsonl", b"row\n")
    return forger.write(tmp_path / "x.tar")


def given_of(bundle: Path) -> Given:
    with open_archive(bundle) as archive:
        return given_by(archive, {"facts": {"parameters": 7}})


def hub_recipe(tmp_path: Path) -> Any:
    (tmp_path / "x.yaml").write_text(
        json.dumps(
            {
                "schema": 1,
                "name": "x",
                "model": {"hub": "acme/m", "revision": COMMIT, "dtype": "float32"},
                "data": {
                    "train": [
                        {"hub": "acme/d", "revision": COMMIT, "file": "r.jsonl", "format": "alpaca"}
                    ]
                },
                "train": {"adapter": {"type": "lora", "r": 2}, "max_steps": 1},
            }
        )
    )
    return load_recipe(tmp_path / "x.yaml")


@pytest.mark.parametrize("stage", [fetch, fetch_data], ids=["model", "data"])
def test_what_a_bundle_gives_has_a_key_of_its_own(stage: Any, bundle: Path, tmp_path: Path) -> None:
    """Else a stranger could put any weights under the name of a model of the hub."""

    def key(recipe: Any) -> str:
        files = {stage.NAME: file_digests(stage, recipe)}
        around = Surroundings({"data": "e"}, {}, {}, files)
        return key_of(key_material(stage, recipe, {}, around))

    plain = hub_recipe(tmp_path)
    given = given_of(bundle)
    other = replace(given, files={**given.files, stage.NAME: {"model/config.json": "0" * 64}})
    keys = {key(plain), key(replace(plain, given=given)), key(replace(plain, given=other))}
    assert len(keys) == 3


def test_the_stages_take_it_and_measure_what_was_measured(bundle: Path, tmp_path: Path) -> None:
    recipe = replace(hub_recipe(tmp_path), given=given_of(bundle))
    measured: dict[str, Any] = {}
    context: Any = SimpleNamespace(measure=measured.__setitem__)
    for stage in (fetch, fetch_data):
        (tmp_path / stage.NAME).mkdir()
        stage.run(recipe, {}, tmp_path / stage.NAME, context)
    assert (tmp_path / "fetch" / "model" / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "fetch_data" / "data" / "train-0.jsonl").read_bytes() == b"row\n"
    assert measured == {"parameters": 7}


def test_another_bundle_in_its_place_is_not_taken(bundle: Path, tmp_path: Path) -> None:
    given = given_of(bundle)
    forger = Forger.of(bundle)
    forger.put("fetched/fetch/model/config.json", b"{ }")
    forger.write(bundle)
    with pytest.raises(UsageError) as caught:
        given.unpack("fetch", tmp_path / "out")
    assert caught.value.code == "E825"
    bundle.unlink()
    with pytest.raises(UsageError) as caught:
        given.unpack("fetch", tmp_path / "out")
    assert caught.value.code == "E820"


def test_a_run_remembers_its_bundle(bundle: Path) -> None:
    given = given_of(bundle)
    assert Given.from_data(json.loads(json.dumps(given.as_data()))) == given


# --- the results beside the bundle's


def manifest(folder: Path, *, rows: str = "0", adapter: str = "0", on: str = "here") -> Path:
    def fact(digest: str, **more: str) -> dict:
        return {"size": 1, "sha256": digest * 64, "class": "portable", **more}

    stages = {
        "fetch": {"model/config.json": fact("f")},
        "prepare": {"rows": fact(rows)},
        "train": {"adapter": fact(adapter, platform=on)},
        "merge": {"model": fact(adapter)},
    }
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "stages": stages}))
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return manifest(tmp_path / "theirs")


def compared(theirs: Path, ours: Path) -> None:
    recipe: Any = argparse.Namespace(folder=theirs)
    run_command._compare_with_bundle(recipe, ours)


def test_equal_results_are_said(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(theirs, manifest(tmp_path / "ours"))
    assert "the same bytes as in the bundle: manifest " in capsys.readouterr().err


def test_other_results_on_the_same_platform_exit_7(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReproduced, match="bundle holds: train/adapter") as caught:
        compared(theirs, manifest(tmp_path / "ours", adapter="1"))
    assert caught.value.entries == ("merge/model",)


def test_another_platform_may_train_other_bytes(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(theirs, manifest(tmp_path / "ours", adapter="1", on="there"))
    said = capsys.readouterr().err
    assert "W820" in said
    assert "on here, this is there" in said


def test_another_platform_prepares_the_same_bytes(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReproduced, match="prepare/rows"):
        compared(theirs, manifest(tmp_path / "ours", rows="1", adapter="1", on="there"))


def test_a_run_that_ended_earlier_is_compared_as_far_as_it_went(
    theirs: Path, tmp_path: Path
) -> None:
    ours = manifest(tmp_path / "ours")
    content = json.loads((ours / "manifest.json").read_text())
    del content["stages"]["merge"]
    (ours / "manifest.json").write_text(json.dumps(content))
    assert compare_with_bundle(theirs, ours).differences == []
