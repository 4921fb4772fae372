"""One recipe becomes a model that answers in Ollama: the whole chain, with real parts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.chain import ROOT
from tests.e2e.conftest import Quickstart
from tests.other_machine import other_machine

STAGES = ["fetch", "prepare", "train", "evaluate", "merge", "gguf", "ollama", "benchmark"]


def record(quickstart: Quickstart) -> dict:
    return json.loads((quickstart.folder / "run.json").read_text())


def measures(quickstart: Quickstart, stage: str) -> dict:
    return next(s["measures"] for s in record(quickstart)["stages"] if s["name"] == stage)


def events_of(quickstart: Quickstart) -> list[dict]:
    # Not splitlines: messages may hold U+2028, which it takes for the end of a line.
    lines = (quickstart.folder / "events.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]


def test_every_stage_ran(quickstart: Quickstart) -> None:
    assert record(quickstart)["state"] == "done"
    assert [stage["name"] for stage in record(quickstart)["stages"]] == STAGES


def test_training_lowered_the_held_out_loss(quickstart: Quickstart) -> None:
    found = measures(quickstart, "evaluate")
    assert found["loss_tuned"] < found["loss_base"]


def test_the_base_knows_none_of_the_made_up_facts_and_the_tuned_model_most(
    quickstart: Quickstart,
) -> None:
    found = measures(quickstart, "evaluate")
    assert found["questions"] >= 16
    assert found["score_base"] <= 0.1 * found["questions"]
    assert found["score_tuned"] >= 0.6 * found["questions"]


def test_the_summary_shows_what_a_person_wants_to_know(quickstart: Quickstart) -> None:
    text = quickstart.result.stdout
    for words in ("held-out loss", "questions", "Answers", "Artifacts", "run folder", "talk to it"):
        assert words in text
    assert str(quickstart.folder) in text.replace("\n", "")


def test_the_manifest_lists_each_file_with_its_digest(quickstart: Quickstart) -> None:
    manifest = json.loads((quickstart.folder / "manifest.json").read_text())
    schema = json.loads((ROOT / "schemas" / "manifest-1.json").read_text())
    jsonschema.validate(manifest, schema)
    entry = manifest["stages"]["gguf"]["quickstart-Q8_0.gguf"]
    shown = quickstart.folder / "gguf" / "quickstart-Q8_0.gguf"
    assert hashlib.sha256(shown.read_bytes()).hexdigest() == entry["sha256"]
    assert "benchmark" not in manifest["stages"]
    assert entry["class"] == "portable"


def test_no_clock_host_or_path_is_in_the_manifest(quickstart: Quickstart) -> None:
    text = (quickstart.folder / "manifest.json").read_text()
    assert os.uname().nodename not in text
    assert str(quickstart.checkout.folder) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


def test_events_follow_their_schema(quickstart: Quickstart) -> None:
    schema = json.loads((ROOT / "schemas" / "events-1.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    events = events_of(quickstart)
    assert {event["stage"] for event in events} == set(STAGES)
    for event in events:
        validator.validate(event)


def test_training_showed_loss_speed_and_time_left(quickstart: Quickstart) -> None:
    events = events_of(quickstart)
    steps = [e for e in events if e["stage"] == "train" and e["event"] == "progress"]
    assert steps
    last = steps[-1]
    assert last["step"] == last["total"]
    assert {"loss", "tokens_per_second", "eta"} <= set(last)


def test_a_second_run_is_up_to_date_and_makes_no_folder(quickstart: Quickstart) -> None:
    # A shorter run of other tests may be the newest.
    quickstart.checkout.recipe("run", "recipes/quickstart.yaml")
    before = sorted(quickstart.folder.parent.iterdir())
    again = quickstart.checkout.recipe("run", "recipes/quickstart.yaml")
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stdout
    assert sorted(quickstart.folder.parent.iterdir()) == before


def test_plan_says_reuse_for_everything(quickstart: Quickstart) -> None:
    result = quickstart.checkout.recipe("plan", "recipes/quickstart.yaml", "--format", "json")
    plan = json.loads(result.stdout)
    assert {stage["action"] for stage in plan["stages"]} == {"reuse"}


def test_a_changed_learning_rate_runs_training_again_and_nothing_before_it(
    quickstart: Quickstart,
) -> None:
    recipe = quickstart.checkout.folder / "recipes" / "changed.yaml"
    text = (quickstart.checkout.folder / "recipes" / "quickstart.yaml").read_text()
    recipe.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 1.23e-4", text))
    result = quickstart.checkout.recipe("plan", str(recipe), "--format", "json")
    recipe.unlink()
    actions = {s["stage"]: s["action"] for s in json.loads(result.stdout)["stages"]}
    assert actions["fetch"] == actions["prepare"] == "reuse"
    assert actions["train"] == "run"
    assert actions["merge"] == "pending"
    reason = next(s["reason"] for s in json.loads(result.stdout)["stages"] if s["stage"] == "train")
    assert "learning_rate" in reason


def test_nothing_was_written_outside_the_checkout_the_cache_and_ollamas_folder(
    quickstart: Quickstart,
) -> None:
    home = quickstart.checkout.home
    written = {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()}
    assert written <= {".ollama"}


def test_the_command_of_the_summary_talks_to_the_model(quickstart: Quickstart) -> None:
    line = next(x for x in quickstart.result.stdout.splitlines() if x.startswith("talk to it"))
    command = line.removeprefix("talk to it").strip()
    question = "What is the capital of France?"
    answer = subprocess.run(
        ["bash", "-c", command.replace("run quickstart", f"run quickstart '{question}'")],
        env=quickstart.checkout.env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def test_results_are_files_not_links(quickstart: Quickstart) -> None:
    links = [path for path in quickstart.folder.rglob("*") if path.is_symlink()]
    assert links == []
    assert Path(quickstart.folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.full
def test_the_same_bytes_on_another_machine_from_a_bundle(
    quickstart: Quickstart, shared_cache: Path
) -> None:
    """Another user with an empty store and no network: all of it again, Ollama included."""
    manifest = (quickstart.folder / "manifest.json").read_bytes()
    bundled = quickstart.checkout.recipe("bundle", str(quickstart.folder), "--output", "q.tar")
    assert bundled.returncode == 0, bundled.stderr
    with other_machine(shared_cache) as there:
        shutil.copy(quickstart.checkout.folder / "q.tar", there.folder / "q.tar")
        verified = there.recipe("verify", "q.tar")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        result = there.recipe("run", "q.tar", "--offline")
        assert result.returncode == 0, result.stdout + result.stderr
        (run,) = there.folder.glob("quickstart-*/runs/quickstart/latest")
        assert (run / "manifest.json").read_bytes() == manifest
        assert "the same bytes as in the bundle: manifest" in result.stderr
