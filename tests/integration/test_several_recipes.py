"""Several recipes in one command, really run: their rows prepared, no model trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chain import Checkout, copy_checkout
from tests.e2e.test_bad_luck import wait_for
from tests.tiny_chain import RECIPE, write_tiny_chain

UNTIL = ("--until", "prepare")


@pytest.fixture
def checkout(tmp_path: Path, shared_cache: Path) -> Checkout:
    """tiny.yaml and other.yaml, which holds other rows out."""
    made = copy_checkout(
        tmp_path / "checkout", cache=shared_cache, store=tmp_path / "store", home=tmp_path / "home"
    )
    write_tiny_chain(made)
    text = RECIPE.replace("STEPS", "12").replace("name: tiny", "name: other\nseed: 7")
    (made.folder / "other.yaml").write_text(text)
    return made


def test_what_is_done_is_reused_and_the_rest_goes_on(checkout: Checkout) -> None:
    recipes = ["tiny.yaml", "other.yaml"]
    rows = checkout.folder / "rows.jsonl"
    good = rows.read_text()
    (checkout.folder / "long.jsonl").write_text(good + good.replace("is 3", "is 3" * 300))
    other = (checkout.folder / "other.yaml").read_text()
    (checkout.folder / "other.yaml").write_text(other.replace("rows.jsonl", "long.jsonl"))
    failed = checkout.recipe("run", *recipes, *UNTIL, "--format", "json")
    assert failed.returncode == 1, failed.stderr
    assert "ended with other.yaml, recipe 2 of 2\n  done:      tiny.yaml\n" in failed.stderr
    assert "reused: recipe run tiny.yaml other.yaml --until prepare\n" in failed.stderr
    done, wrong = json.loads(failed.stdout)["recipes"]
    assert (done["state"], wrong["state"]) == ("done", "failed")
    assert wrong["error"]["code"] == "E325"

    (checkout.folder / "long.jsonl").write_text(good)
    again = checkout.recipe("run", *recipes, *UNTIL, "--format", "json")
    assert again.returncode == 0, again.stderr
    first, second = json.loads(again.stdout)["recipes"]
    assert (first["state"], first["run"]) == ("up-to-date", done["run"])
    actions = {stage["name"]: stage["action"] for stage in second["stages"]}
    assert actions == {"fetch": "reuse", "prepare": "run"}  # the model was there by then


def test_all_go_on_in_the_background_each_with_its_log(checkout: Checkout) -> None:
    begun = checkout.recipe("run", "tiny.yaml", "other.yaml", *UNTIL, "-d", "--format", "json")
    assert begun.returncode == 0, begun.stderr
    first = Path(json.loads(begun.stdout)["run"])
    assert first.parent.name == "tiny"
    latest = checkout.folder / "runs" / "other" / "latest"
    wait_for(latest.is_symlink, "the second recipe")
    for run in (first, latest.resolve()):
        assert (run / "logs" / "recipe.log").is_file()
        record = json.loads((run / "run.json").read_text())
        assert record["command"][:4] == ["recipe", "run", "tiny.yaml", "other.yaml"]


@pytest.mark.parametrize("task", ["10.2", "10.4", "10.5"])
def test_a_pattern_over_the_shipped_recipes_is_planned(task: str, checkout: Checkout) -> None:
    """As a shell gives it: sorted names, the synthesis recipe among them."""
    files = sorted(checkout.folder.glob(f"recipes/course/{task}-*.yaml"))
    names = [str(path.relative_to(checkout.folder)) for path in files]
    assert len(names) >= 2
    planned = checkout.recipe("plan", *names, *UNTIL, "--format", "json")
    assert planned.returncode == 0, planned.stderr
    left_out = [name for name in names if f"left out: {name} " in planned.stderr]
    assert left_out == [name for name in names if "synthesis" in name]
    assert len(json.loads(planned.stdout).get("recipes", [1])) == len(names) - len(left_out)
