"""A run's folder as a finished run leaves it, made by hand in no time: small files, no training."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.lock.file import as_text
from runner.lock.of_run import FILE, HEAD, moved
from runner.lock.pins import cheap_pins
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe, build
from runner.recipe.source import Source
from runner.stages import stages_of
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.manifest import build_manifest
from runner.system import environments

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLATFORM = {"name": "cpu-test-t2-torch2.13.0", "device": "cpu", "torch": "2.13.0", "threads": 2}
MADE = {
    "fetch": {"model/config.json": Class.PORTABLE, "model/model.safetensors": Class.PORTABLE},
    "fetch_data": {"data/train-1.jsonl": Class.PORTABLE},
    "prepare": {"train.tokens.safetensors": Class.PORTABLE},
    "train": {"adapter/adapter_model.safetensors": Class.PLATFORM, "trace.jsonl": Class.PLATFORM},
    "evaluate": {"answers.jsonl": Class.PLATFORM, "evaluation.json": Class.MEASURED},
    "merge": {"model/model.safetensors": Class.PORTABLE},
}
MEASURES = {
    "evaluate": {"loss_base": 4.25, "loss_tuned": 2.5, "score_tuned": 0, "peak_memory": 1443860480}
}
MODELS: dict[str, dict[str, Any]] = {
    "path": {"path": "base"},
    "hub": {"hub": "acme/tiny", "revision": COMMIT},
    "wheel": {"wheel": "acme-tiny==1.2", "sha256": "a" * 64, "file": "acme/tiny.gguf"},
}


def write_finished_run(project: Path, model: str = "path", **sections: Any) -> Path:
    """runs/x/1 below `project`, of a recipe with a local and a hub's data file. Returns it."""
    recipe = _write_recipe(project, MODELS[model], sections)
    folder = project / "runs" / "x" / "1"
    folder.mkdir(parents=True)
    known = _write_results(folder, [stage.NAME for stage in stages_of(recipe)])
    manifest = build_manifest(known, PLATFORM["name"])
    (folder / "manifest.json").write_bytes(manifest)
    _write_lock(recipe, known["fetch"], folder)
    record = {
        "schema": 1,
        "id": "20260101-120000",
        "state": "done",
        "recipe": recipe.name,
        "recipe_file": str(project / "x.yaml"),
        "resolved": recipe.resolved(),
        "runner": "0.1.0",
        "started": "2026-01-01T12:00:00.123456+00:00",
        "ended": "2026-01-01T14:30:00.654321+02:00",
        "until": None,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "host": {"name": "secret-host", "machine": "x86_64", "python": platform.python_version()},
        "platform": PLATFORM,
        "environments": {
            role: environments.identity(role)
            for role in sorted({s.ENVIRONMENT for s in stages_of(recipe) if s.ENVIRONMENT})
        },
        "tools": {},
        "stages": [
            {"name": name, "key": f"{number}" * 64, "measures": MEASURES.get(name, {})}
            for number, name in enumerate(known)
        ],
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def change_record(run: Path, **changes: Any) -> None:
    """Other values in run.json."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | changes))


def _write_recipe(project: Path, model: dict[str, Any], sections: dict[str, Any]) -> Recipe:
    base = project / "base"
    base.mkdir(parents=True)
    (project / ".git").mkdir()
    for name in ("config.json", "model.safetensors"):
        (base / name).write_text(name)
    (project / "rows.jsonl").write_text("{}\n" * 40)
    hub = {"hub": "acme/rows", "revision": COMMIT, "file": "data/train.jsonl"}
    content = {
        "schema": 1,
        "name": "x",
        "description": "Tells tales.",
        "model": model | {"dtype": "float32"},
        "data": {"train": [{"path": "rows.jsonl", "format": "alpaca"}, hub | {"format": "alpaca"}]},
        "train": {"adapter": {"type": "lora"}, "max_steps": 1},
        "evaluate": {},
        "merge": {},
    }
    (project / "x.yaml").write_text(json.dumps(content | sections))
    return load_recipe(project / "x.yaml")


def _write_results(folder: Path, stages: list[str]) -> dict[str, Outputs]:
    from runner.execution.run_folder import SHOWN_AS

    known = {}
    for stage in stages:
        files = {}
        for path, cls in MADE[stage].items():
            content = f"{stage}: {path}".encode()
            files[path] = FileEntry(path, len(content), hashlib.sha256(content).hexdigest(), cls)
            if stage in SHOWN_AS:
                place = folder / SHOWN_AS[stage] / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        known[stage] = Outputs(stage, "key", folder, files)
    return known


def _write_lock(recipe: Recipe, fetched: Outputs, folder: Path) -> None:
    """As lock/of_run.py does, for a base model that is none."""
    path = folder / FILE
    resolved = moved(recipe, folder)
    again = replace(build(resolved, Source(path=path, data=resolved)))
    pins = cheap_pins(again) | {
        "model": {name: entry.sha256 for name, entry in sorted(fetched.files.items())},
        "facts": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "modules": {}},
    }
    path.write_text(as_text(pins, HEAD))
