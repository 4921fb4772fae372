"""What the runner and the scripts write is what the published schemas say, and nothing looser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runner.execution.events import EventLog, read_events
from runner.recipe.schema import schema_path
from runner.scripts.spec import Events
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.manifest import build_manifest

DIGEST = "0" * 64


def validator(name: str) -> Any:
    return jsonschema.Draft7Validator(json.loads(schema_path(name).read_text()))


def test_events_of_runner_and_scripts_follow_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append({"stage": "train", "event": "stage", "state": "start", "key": DIGEST})
    log.append({"stage": "train", "event": "waiting", "for": "the device", "holder": "process 7"})
    script = Events(path, "train")
    script.progress(1, 40, loss=2.5, tokens={"non_pad": 9, "padded": 12}, message="training", eta=3)
    script.measure(loss_base=2.5, kinds={"text": 3})
    script.fail("no row is left", hint="raise data.max_length", code="E329")
    log.append({"stage": "train", "event": "stage", "state": "done", "key": DIGEST, "seconds": 1.5})
    log.close()
    script._file.close()
    events, _ = read_events(path)
    assert len(events) == 6
    for event in events:
        validator("events-1").validate(event)


def test_a_line_that_was_cut_off_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"time":1.0,"stage":"tr')  # what a full disk, or a kill, left of a line
    log = EventLog(path)
    log.append({"stage": "train", "event": "stage", "state": "failed", "key": DIGEST})
    log.append({"stage": "train", "event": "stage", "state": "start", "key": DIGEST})
    log.close()
    events, offset = read_events(path)
    assert [event["state"] for event in events] == ["failed", "start"]
    assert offset == path.stat().st_size


@pytest.mark.parametrize(
    "change",
    [
        {"event": "other"},
        {"stage": "other"},
        {"time": "now"},
        {"state": "unknown"},
        {"key": "short"},
        {"step": 1},
    ],
)
def test_another_event_does_not(change: dict[str, Any]) -> None:
    event = {"time": 1.0, "stage": "train", "event": "stage", "state": "start", "key": DIGEST}
    assert validator("events-1").is_valid(event)
    assert not validator("events-1").is_valid({**event, **change})


def manifest() -> Any:
    entries = [
        FileEntry("model/model.safetensors", 3, DIGEST, Class.PORTABLE),
        FileEntry("trace.jsonl", 3, DIGEST, Class.PLATFORM),
        FileEntry("create.json", 3, DIGEST, Class.EFFECT),
        FileEntry("speed.json", 3, DIGEST, Class.MEASURED),
    ]
    outputs = Outputs("train", DIGEST, Path("/x"), {entry.path: entry for entry in entries})
    return json.loads(build_manifest({"train": outputs}, "cpu-x86-64"))


def test_a_manifest_follows_the_schema() -> None:
    validator("manifest-1").validate(manifest())
    assert set(manifest()["stages"]["train"]) == {
        "model/model.safetensors", "trace.jsonl", "create.json"
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../x", "a/..", ".", ""])
def test_a_manifest_names_no_file_outside_of_its_stage(path: str) -> None:
    made = manifest()
    made["stages"]["train"] = {path: made["stages"]["train"]["create.json"]}
    assert not validator("manifest-1").is_valid(made)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("trace.jsonl", {"class": "portable"}),
        ("create.json", {"class": "platform"}),
        ("create.json", {"class": "measured"}),
        ("create.json", {"sha256": "abc"}),
        ("create.json", {"size": -1}),
        ("create.json", {"mtime": 1}),
    ],
)
def test_another_entry_does_not(file: str, change: dict[str, Any]) -> None:
    made = manifest()
    made["stages"]["train"][file].update(change)
    assert not validator("manifest-1").is_valid(made)
