"""A recipe that starts from another one's result, by the real command line, to the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.store.digest import canonical_sha256
from tests.chain import Checkout
from tests.tiny_chain import set_steps

DPO = """
schema: 1
name: dpo
model: {recipe: ../tiny.yaml, dtype: float32}
data:
  train: [{path: pairs.jsonl, format: preference}]
  validation: {fraction: 0.3}
  max_length: 256
train:
  method: dpo
  adapter: {type: none}
  max_steps: 3
  per_device_train_batch_size: 4
"""
ORPO = """
schema: 1
name: orpo
model: {recipe: sub/dpo.yaml, dtype: float32}
data:
  train: [{path: sub/pairs.jsonl, format: preference}]
  max_length: 256
train: {method: orpo, adapter: {type: lora, r: 4}, max_steps: 2}
"""


@pytest.fixture(scope="module")
def checkout(
    make_tiny: Callable[[Path], Checkout], tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """tiny.yaml, sub/dpo.yaml on its result, and orpo.yaml on that one's."""
    made = make_tiny(tmp_path_factory.mktemp("chain"))
    folder = made.folder / "sub"
    folder.mkdir()
    rows = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"BAD {n}"} for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dpo.yaml").write_text(DPO)
    (made.folder / "orpo.yaml").write_text(ORPO)
    set_steps(made, 4)
    done(made, "run", "sub/dpo.yaml")
    return made


def done(checkout: Checkout, *arguments: str) -> str:
    result = checkout.recipe(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def runs_of(checkout: Checkout, name: str) -> list[Path]:
    return sorted(path.parent for path in checkout.folder.glob(f"runs/{name}/2*/manifest.json"))


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def actions(run: Path) -> dict[str, str]:
    return {stage["name"]: stage["action"] for stage in record_of(run)["stages"]}


def plan_of(checkout: Checkout, *arguments: str) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(
        checkout.recipe("plan", *arguments, "--format", "json").stdout
    )
    return plan


def test_one_command_runs_both_and_the_second_starts_from_what_the_first_gave(
    checkout: Checkout,
) -> None:
    (tiny,), (dpo,) = runs_of(checkout, "tiny"), runs_of(checkout, "dpo")
    assert list(actions(tiny)) == ["fetch", "prepare", "train", "evaluate", "merge"]
    assert list(actions(dpo)) == ["fetch", "prepare", "train"]
    merged = json.loads((tiny / "manifest.json").read_text())["stages"]["merge"]
    base = record_of(dpo)["base"]
    assert (base["recipe"], len(base["stages"])) == ("tiny", 5)
    files = [[path, facts["size"], facts["sha256"]] for path, facts in sorted(merged.items())]
    fetch = record_of(dpo)["stages"][0]["material"]["inputs"]
    assert base["result"] == fetch["result"] == canonical_sha256(files)


def test_a_second_run_trains_nothing_and_the_base_recipe_alone_neither(checkout: Checkout) -> None:
    before = [*runs_of(checkout, "tiny"), *runs_of(checkout, "dpo")]
    assert "up to date" in done(checkout, "run", "sub/dpo.yaml")
    assert "up to date" in done(checkout, "run", "tiny.yaml")
    assert [*runs_of(checkout, "tiny"), *runs_of(checkout, "dpo")] == before
    plan = plan_of(checkout, "sub/dpo.yaml")
    stages = [*plan["bases"][0]["stages"], *plan["stages"]]
    assert {stage["action"] for stage in stages} == {"reuse"}


def test_the_files_and_the_whole_chain_are_proved(checkout: Checkout) -> None:
    assert "all as recorded" in done(checkout, "verify", "runs/dpo")
    text = done(checkout, "verify", "runs/dpo", "--level", "train")
    assert "every byte equal: fetch, prepare, train" in text
    rows = checkout.folder / "rows.jsonl"  # which the base recipe learned from
    before = rows.read_bytes()
    rows.write_bytes(before.replace(b"Say 1.", b"Say 2."))
    result = checkout.recipe("verify", "runs/dpo", "--level", "train")
    rows.write_bytes(before)
    assert result.returncode == 4
    assert "rows.jsonl, which the run started from, is not what it was then" in result.stderr


def test_both_locks_run_and_pin_the_base_recipe(checkout: Checkout) -> None:
    done(checkout, "lock", "sub/dpo.yaml")
    for lock in ("sub/dpo.lock.yaml", "runs/dpo/latest/recipe.lock.yaml"):
        assert "up to date" in done(checkout, "run", lock)
    assert "up to date" in done(checkout, "run", "--locked", "sub/dpo.yaml")
    set_steps(checkout, 5)
    result = checkout.recipe("run", "--locked", "sub/dpo.yaml")
    assert result.returncode == 5
    assert "model.recipe.train.max_steps: 4 → 5" in result.stdout + result.stderr
    # A lock that is run goes by what stands in it, whatever the base recipe's file says today.
    assert "up to date" in done(checkout, "run", "sub/dpo.lock.yaml")
    set_steps(checkout, 4)
    lock = checkout.folder / "sub" / "dpo.lock.yaml"
    pinned = lock.read_text()
    digest = json.loads(
        (checkout.folder / "runs" / "dpo" / "latest" / "manifest.json").read_text()
    )["stages"]["fetch"]["model/model.safetensors"]["sha256"]
    assert digest in pinned
    lock.write_text(pinned.replace(digest, "f" * 64))
    # Something must be done for it to be looked at.
    result = checkout.recipe("run", "--locked", "sub/dpo.yaml", "--until", "prepare")
    lock.unlink()
    assert result.returncode == 5
    assert "E367" in result.stdout + result.stderr


def test_what_a_run_started_from_is_kept_without_its_own_run(checkout: Checkout) -> None:
    place = checkout.folder / "runs" / "tiny"
    kept = checkout.folder / "runs-elsewhere"
    shutil.copytree(place, kept, symlinks=True)
    shutil.rmtree(place)
    done(checkout, "gc")
    plan = plan_of(checkout, "sub/dpo.yaml")
    stages = [*plan["bases"][0]["stages"], *plan["stages"]]
    shutil.copytree(kept, place, symlinks=True)
    assert {stage["action"] for stage in stages} == {"reuse"}


def test_a_bundle_holds_the_result_and_the_inputs_of_the_chain(
    checkout: Checkout, tmp_path: Path
) -> None:
    bundle = tmp_path / "dpo.tar"
    done(checkout, "bundle", "runs/dpo", "--output", str(bundle))
    assert "all as recorded" in done(checkout, "verify", str(bundle))
    folder = tmp_path / "unpacked"
    text = done(checkout, "run", str(bundle), "--into", str(folder))
    assert "the same bytes as in the bundle" in text
    assert (folder / "inputs" / "base" / "train-0.jsonl").is_file()
    assert (folder / "inputs" / "base" / "model" / "config.json").is_file()


def test_three_recipes_start_one_from_the_other(checkout: Checkout) -> None:
    """The middle one trains every weight: what it trained goes on, and nothing is merged."""
    before = [*runs_of(checkout, "tiny"), *runs_of(checkout, "dpo")]
    done(checkout, "run", "orpo.yaml")
    assert [*runs_of(checkout, "tiny"), *runs_of(checkout, "dpo")] == before
    (orpo,) = runs_of(checkout, "orpo")
    trained = json.loads((before[-1] / "manifest.json").read_text())["stages"]["train"]
    fetched = json.loads((orpo / "manifest.json").read_text())["stages"]["fetch"]
    name = "model/model.safetensors"
    assert fetched[name]["sha256"] == trained[name]["sha256"]
    assert len(record_of(orpo)["base"]["stages"]) == 8
    shown = done(checkout, "attest", "runs/orpo", "--format", "cyclonedx")
    model = json.loads(shown)["metadata"]["component"]
    (base,) = model["pedigree"]["ancestors"]
    (first,) = base["pedigree"]["ancestors"]
    assert (base["name"], first["name"]) == ("dpo", "model")


def test_a_change_in_the_base_recipe_trains_both_again(checkout: Checkout) -> None:
    set_steps(checkout, 6)
    plan = plan_of(checkout, "sub/dpo.yaml")
    assert [stage["action"] for stage in plan["bases"][0]["stages"]] == [
        *("reuse", "reuse", "run", "pending", "pending")
    ]
    assert {stage["action"] for stage in plan["stages"]} == {"pending"}
    done(checkout, "run", "sub/dpo.yaml")
    assert actions(runs_of(checkout, "tiny")[-1])["train"] == "run"
    found = actions(runs_of(checkout, "dpo")[-1])
    assert (found["fetch"], found["train"]) == ("run", "run")
