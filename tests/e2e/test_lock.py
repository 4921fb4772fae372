"""A lock pins every input, can itself be run, and notices what changed before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chain import Checkout


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, make_tiny: object) -> Checkout:
    """The tiny recipe, locked, run by its lock, its results written down."""
    assert callable(make_tiny)
    checkout: Checkout = make_tiny(tmp_path_factory.mktemp("locked"))
    for arguments in (
        ["lock", "tiny.yaml"],
        ["run", "tiny.lock.yaml"],
        ["lock", "tiny.yaml", "--results"],
    ):
        result = checkout.recipe(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
    return checkout


def test_the_lock_knows_the_models_facts(locked: Checkout) -> None:
    text = (locked.folder / "tiny.lock.yaml").read_text()
    for words in ("vocab_size:", "max_position_embeddings:", "q_proj:", "parameters:"):
        assert words in text
    assert str(locked.folder) not in text


def test_locking_again_changes_nothing(locked: Checkout) -> None:
    before = (locked.folder / "tiny.lock.yaml").read_bytes()
    assert locked.recipe("lock", "tiny.yaml").returncode == 0
    assert (locked.folder / "tiny.lock.yaml").read_bytes() == before
    assert locked.recipe("lock", "tiny.yaml", "--check").returncode == 0


def test_the_recipe_and_its_lock_are_one_run(locked: Checkout) -> None:
    result = locked.recipe("run", "tiny.yaml", "--locked")
    assert result.returncode == 0, result.stderr
    assert "up to date" in result.stdout
    assert "as expected on" in result.stderr


def test_other_results_than_expected_exit_7(locked: Checkout) -> None:
    (results,) = (locked.folder / "tiny.results").glob("*.json")
    before = results.read_text()
    expected = json.loads(before)
    expected["stages"]["train"]["trace.jsonl"]["sha256"] = "0" * 64
    results.write_text(json.dumps(expected))
    strict = locked.recipe("run", "tiny.yaml", "--locked")
    lenient = locked.recipe("run", "tiny.yaml")
    results.write_text(before)
    assert strict.returncode == 7
    assert "train/trace.jsonl" in strict.stderr
    assert lenient.returncode == 0
    assert "not as expected" in lenient.stderr


@pytest.mark.parametrize(
    ("name", "entry"),
    [("rows.jsonl", "files.rows.jsonl"), ("model/config.json", "files.model/config.json")],
)
def test_an_edited_input_is_caught_before_anything_runs(
    locked: Checkout, name: str, entry: str
) -> None:
    path = locked.folder / name
    before = path.read_bytes()
    runs = sorted((locked.folder / "runs" / "tiny").iterdir())
    path.write_bytes(before + b"\n")
    try:
        for arguments in (["run", "tiny.lock.yaml"], ["run", "tiny.yaml", "--locked"]):
            result = locked.recipe(*arguments)
            assert result.returncode == 5, result.stderr
            assert entry in result.stderr
            assert "recipe lock" in result.stderr
        assert locked.recipe("lock", "tiny.yaml", "--check").returncode == 5
    finally:
        path.write_bytes(before)
    assert sorted((locked.folder / "runs" / "tiny").iterdir()) == runs


def test_a_runs_own_lock_is_that_run(locked: Checkout) -> None:
    result = locked.recipe("run", "runs/tiny/latest/recipe.lock.yaml", "--locked")
    assert result.returncode == 0, result.stderr
    assert "up to date" in result.stdout


def test_results_of_another_recipe_are_not_written_down(tmp_path: Path, locked: Checkout) -> None:
    text = (locked.folder / "tiny.yaml").read_text()
    (locked.folder / "tiny.yaml").write_text(text.replace("r: 4", "r: 8"))
    result = locked.recipe("lock", "tiny.yaml", "--results")
    (locked.folder / "tiny.yaml").write_text(text)
    assert locked.recipe("lock", "tiny.yaml").returncode == 0
    assert result.returncode == 2
    assert "E805" in result.stderr
