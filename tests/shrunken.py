"""Shrunken models of the public configs in runner/plan/data/published, made by the real script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.training_runs import Finished, ScriptRun, WarmInterpreter

FOLDER = Path(__file__).parent.parent / "runner" / "plan" / "data" / "published"
# Number of parameters that the publisher states or whose tensors the publisher's files hold; tied
# embeddings count once.
PUBLISHED: dict[str, int] = json.loads((Path(__file__).parent / "published_sizes.json").read_text())
NAMES = sorted(PUBLISHED)


def public_config(name: str) -> dict[str, Any]:
    """The config of a public model."""
    config: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return config


def write_source(name: str, folder: Path, **changes: Any) -> Path:
    """A folder that holds nothing but the config, with `changes`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(public_config(name) | changes, indent=2))
    return folder


def shrink(
    warm: WarmInterpreter, python: Path, source: Path, place: Path, seed: int = 0
) -> Finished:
    """Run the script on a folder; `model/` lies in the result's folder."""
    hashed = {"seed": seed, "trust_remote_code": None}
    run = ScriptRun(python, "shrink", hashed, {"source": source}, place)
    return run.finish(warm)
