"""Write every golden file: `python -m tests.golden.update` after a change, then read the diff.

Reports of bad recipes are written as they are now. Each stage's sources are tied to its VERSION: a
change that may give other bytes raises VERSION in the stage's module first. One that cannot (a
comment, a message) only needs this update.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

from runner.stages import ORDER, load_stage
from tests.chain import ROOT
from tests.golden import reports

GOLDEN = Path(__file__).with_name("stage_sources.json")
FOLLOWED = ("runner.stages", "runner.scripts", "runner.backends", "runner.system.determinism")
NOT_BYTES = ("runner.stages.contract", "runner.scripts.spec")  # how stages talk, not what they make


def stage_sources() -> dict[str, dict[str, object]]:
    """stage -> its VERSION and the sha256 of everything of ours that decides its bytes."""
    return {
        name: {"version": load_stage(name).VERSION, "sources": _digest(_closure(name))}
        for name in ORDER
    }


def _closure(stage: str) -> list[Path]:
    """The stage's module, the scripts it names, and what those import of ours, sorted."""
    waiting, seen = [f"runner.stages.{stage}"], set()
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if path is None or path in seen:
            continue
        seen.add(path)
        waiting += [name for name in _mentioned(path) if _is_followed(name, stage)]
    return sorted(seen)


def _is_followed(module: str, stage: str) -> bool:
    other_stages = {f"runner.stages.{name}" for name in ORDER if name != stage}
    return (
        module.startswith(FOLLOWED)
        and not module.startswith(NOT_BYTES)
        and module not in {"runner.stages", *other_stages}
    )


def _mentioned(path: Path) -> list[str]:
    """Modules that a file imports, and scripts that it names in a string."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.isidentifier():
                names.append(f"runner.scripts.{node.value}")
            names.append(node.value)
    return names


def _file_of(module: str) -> Path | None:
    stem = ROOT / Path(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if module.startswith("runner.") and path.is_file():
            return path
    return None


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(stage_sources(), indent=2) + "\n", encoding="utf-8")
    reports.write_all()
