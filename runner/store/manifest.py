"""`manifest.json`: what came out of a run, and nothing about how or where.

Per stage and file: size, sha256, class, and the platform for the class that depends on it. No
clock, host, path or name of the run: equal results have equal manifests, byte for byte, so that
comparing two runs is comparing two files.

Measured files are left out, since they vary. Files of class effect are listed: they hold what was
asked of the outside (a request, its digests), which is as fixed as any other output. Whatever the
outside answered in its own words belongs in a measured file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runner.stages.contract import Class, FileEntry, Outputs

FILE_NAME = "manifest.json"
SCHEMA = 1


def build_manifest(outputs: Mapping[str, Outputs], platform: str) -> bytes:
    """The manifest's text. `outputs` maps stage names to results; `platform` is the short name."""
    stages = {
        stage: files for stage, result in outputs.items() if (files := _files(result, platform))
    }
    text = json.dumps(
        {"schema": SCHEMA, "stages": stages}, ensure_ascii=False, indent=2, sort_keys=True
    )
    return text.encode() + b"\n"


def _files(result: Outputs, platform: str) -> dict[str, dict[str, Any]]:
    return {
        path: _entry(entry, platform)
        for path, entry in result.files.items()
        if entry.cls is not Class.MEASURED
    }


def _entry(entry: FileEntry, platform: str) -> dict[str, Any]:
    line = {"size": entry.size, "sha256": entry.sha256, "class": entry.cls.value}
    return line | ({"platform": platform} if entry.cls is Class.PLATFORM else {})
