"""The machine's state as the planner sees it, read once before planning. Reads only.

The only server it may ask is an Ollama on the loopback, through the probe of the `ollama` stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.plan.keys import Surroundings, key_material, key_of
from runner.plan.plan import needs_of, unresolved, upstream_of
from runner.stages.contract import Outputs, Stage, environment_of
from runner.system.regular import read_regular

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.store.store import Inspection, Store

StageKey = tuple[str, str]
MAX_RECORD = 64 << 20  # bytes of a run.json


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`entries`: what the store holds under the keys this recipe can know now.

    `resumable`: keys with a usable checkpoint. `lost_effects`: why an outside effect (a model in
    Ollama) is no longer there. `previous`: stage -> key material of the newest run, for reasons.
    `given`: what comes from outside of the recipe's own stages (stages/models/base_result.py).
    """

    surroundings: Surroundings
    entries: Mapping[StageKey, Inspection] = field(default_factory=dict)
    resumable: frozenset[StageKey] = frozenset()
    lost_effects: Mapping[StageKey, str] = field(default_factory=dict)
    previous: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    given: Mapping[str, Outputs] = field(default_factory=dict)


def take_snapshot(
    recipe: Recipe,
    stages: list[Stage],
    store: Store,
    runs: Path,
    given: Mapping[str, Outputs] | None = None,
) -> Snapshot:
    """Read what planning `recipe` needs to know. `runs` is the folder of this recipe's runs.

    `given`: as in Snapshot; nothing of it where the other recipe has not given its result yet.
    """
    given = given or {}
    surroundings = read_surroundings(recipe, stages)
    entries: dict[StageKey, Inspection] = {}
    resumable: set[StageKey] = set()
    lost: dict[StageKey, str] = {}
    known = dict(given)
    for stage in stages:
        if any(name not in known for name in needs_of(stage, stages, recipe)):
            continue
        if unresolved(stage, recipe):
            continue
        material = key_material(stage, recipe, upstream_of(stage, known), surroundings)
        key = key_of(material)
        entry = store.inspect(stage.NAME, key)
        entries[stage.NAME, key] = entry
        if entry.outputs is not None:
            known[stage.NAME] = entry.outputs
            if reason := probe_effect(stage, recipe, entry.outputs):
                lost[stage.NAME, key] = reason
                del known[stage.NAME]
        elif has_checkpoint(stage, store.scratch_folder(stage.NAME, key)):
            resumable.add((stage.NAME, key))
    before = previous_materials(runs)
    return Snapshot(surroundings, entries, frozenset(resumable), lost, before, given)


def read_surroundings(recipe: Recipe, stages: list[Stage]) -> Surroundings:
    """Identities of environments and tools, the platform, and digests of the files stages read."""
    from runner.system import environments, platforms, tools

    roles = sorted({role for stage in stages if (role := environment_of(stage, recipe))})
    names = sorted({name for stage in stages for name in stage.TOOLS})
    return Surroundings(
        environments={role: environments.identity(role) for role in roles},
        tools={name: tools.tool_identity(name) for name in names},
        platform=platforms.current_platform(),
        files={stage.NAME: digests for stage in stages if (digests := file_digests(stage, recipe))},
    )


def file_digests(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """A stage that reads files of the recipe's folder offers `snapshot(recipe)`: their digests."""
    read = getattr(stage, "snapshot", None)
    return {} if read is None else dict(read(recipe))


def probe_effect(stage: Stage, recipe: Recipe, outputs: Outputs) -> str:
    """Why the outside effect of a stored stage is gone; "" when it is there or has none."""
    probe = getattr(stage, "probe", None)
    return "" if probe is None else str(probe(recipe, outputs))


def has_checkpoint(stage: Stage, scratch: Path) -> bool:
    """A stage that can go on after an interruption offers `resumable(scratch)`."""
    resumable = getattr(stage, "resumable", None)
    return resumable is not None and bool(resumable(scratch))


def resume_is_proved(stage: Stage, recipe: Recipe) -> bool:
    """Does going on from a checkpoint give the same bytes? A stage may offer that name to say no.

    What is proved is what a test trains with and without an interruption.
    """
    proved = getattr(stage, "resume_is_proved", None)
    return proved is None or bool(proved(recipe))


def previous_materials(runs: Path) -> dict[str, Mapping[str, Any]]:
    """Key materials that the newest finished run recorded, by stage; empty when there is none."""
    return {stage["name"]: stage["material"] for stage in _previous_stages(runs)}


def previous_keys(runs: Path) -> dict[str, str]:
    """Stage keys of the newest finished run; empty when there is none."""
    return {stage["name"]: stage["key"] for stage in _previous_stages(runs)}


def _previous_stages(runs: Path) -> list[dict[str, Any]]:
    """Whatever is no stage of a record is no reason for anything."""
    try:
        record = json.loads(read_regular(runs / "latest" / "run.json", MAX_RECORD))
        return [
            {
                "name": str(stage["name"]),
                "key": str(stage["key"]),
                "material": {**stage["material"]},
            }
            for stage in record["stages"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
