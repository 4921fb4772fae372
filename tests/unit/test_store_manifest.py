"""The manifest: equal results give equal bytes, and nothing of the how and where is in it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.manifest import build_manifest
from runner.system.folders import shipped

PLATFORM = "cpu-x86_64-intel-avx2-t2-torch2.13.0"


def outputs(stage: str, *files: FileEntry, folder: str = "/a", **measures: float) -> Outputs:
    return Outputs(stage, "ab" * 32, Path(folder), {file.path: file for file in files}, measures)


MERGED = FileEntry("model/model.safetensors", 10, "aa" * 32, Class.PORTABLE)
CONFIG = FileEntry("model/config.json", 2, "bb" * 32, Class.PORTABLE)
ADAPTER = FileEntry("adapter/adapter_model.safetensors", 20, "cc" * 32, Class.PLATFORM)
SPEED = FileEntry("benchmark.json", 30, "dd" * 32, Class.MEASURED)
REQUEST = FileEntry("create.json", 40, "ee" * 32, Class.EFFECT)
RESULTS = {
    "train": outputs("train", ADAPTER),
    "merge": outputs("merge", MERGED, CONFIG),
    "ollama": outputs("ollama", REQUEST),
    "benchmark": outputs("benchmark", SPEED),
}


def test_the_whole_text() -> None:
    assert json.loads(build_manifest(RESULTS, PLATFORM)) == {
        "schema": 1,
        "stages": {
            "train": {
                ADAPTER.path: {
                    "size": 20, "sha256": "cc" * 32, "class": "platform", "platform": PLATFORM,
                }
            },
            "merge": {
                CONFIG.path: {"size": 2, "sha256": "bb" * 32, "class": "portable"},
                MERGED.path: {"size": 10, "sha256": "aa" * 32, "class": "portable"},
            },
            "ollama": {REQUEST.path: {"size": 40, "sha256": "ee" * 32, "class": "effect"}},
        },
    }  # fmt: skip


def test_order_places_measures_and_measured_files_do_not_matter() -> None:
    other = {
        "benchmark": outputs("benchmark", FileEntry("benchmark.json", 31, "00" * 32, SPEED.cls)),
        "ollama": outputs("ollama", REQUEST, folder="/elsewhere"),
        "merge": outputs("merge", CONFIG, MERGED, seconds=2.0),
        "train": outputs("train", ADAPTER),
    }
    assert build_manifest(other, PLATFORM) == build_manifest(RESULTS, PLATFORM)


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 11}, {"path": "model/x"}])
def test_any_other_byte_shows(change: dict[str, object]) -> None:
    fields = {"path": MERGED.path, "size": MERGED.size, "sha256": MERGED.sha256}
    entry = FileEntry(**{**fields, **change}, cls=Class.PORTABLE)
    changed = {**RESULTS, "merge": outputs("merge", entry, CONFIG)}
    assert build_manifest(changed, PLATFORM) != build_manifest(RESULTS, PLATFORM)


def test_the_platform_only_stands_where_it_matters() -> None:
    portable = {"merge": RESULTS["merge"]}
    assert build_manifest(portable, "one") == build_manifest(portable, "other")
    assert build_manifest(RESULTS, "one") != build_manifest(RESULTS, "other")


def test_it_follows_its_schema() -> None:
    schema = json.loads((shipped("schemas") / "manifest-1.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    manifest = json.loads(build_manifest(RESULTS, PLATFORM))
    validator.validate(manifest)
    manifest["stages"]["train"][ADAPTER.path].pop("platform")
    assert not validator.is_valid(manifest)
    manifest["stages"]["train"][ADAPTER.path] |= {"platform": PLATFORM, "host": "here"}
    assert not validator.is_valid(manifest)
