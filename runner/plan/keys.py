"""The key of a stage: a digest of everything that decides its bytes, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Class, Stage, Upstream, environment_of
from runner.store.digest import canonical_sha256

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

# In the material of a result that belongs to one run: it went on from a checkpoint where that was
# not proved to give the bytes of an uninterrupted run. The value is the run's id.
PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the machine contributes to keys; read once, before planning.

    `environments`: role -> identity; `tools`: tool -> identity; `platform`: facts of the compute
    device and its capped instruction set; `files`: stage -> digests of files it reads.
    """

    environments: Mapping[str, str]
    tools: Mapping[str, str]
    platform: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]


def key_material(
    stage: Stage, recipe: Recipe, upstream: Upstream, surroundings: Surroundings
) -> dict[str, Any]:
    """Everything that decides the bytes of `stage`, as plain data to compare. Pure."""
    material: dict[str, Any] = {
        "stage": stage.NAME,
        "version": stage.VERSION,
        "inputs": stage.key_inputs(recipe, upstream),
    }
    if files := surroundings.files.get(stage.NAME):
        material["files"] = dict(files)
    if (role := environment_of(stage, recipe)) is not None:
        material["environment"] = surroundings.environments[role]
    if stage.TOOLS:
        material["tools"] = {name: surroundings.tools[name] for name in stage.TOOLS}
    if depends_on_platform(stage):
        material["platform"] = dict(surroundings.platform)
    return material


def depends_on_platform(stage: Stage) -> bool:
    """Portable outputs have one key everywhere; all others are the platform's own."""
    return any(cls is not Class.PORTABLE for cls in stage.OUTPUTS.values())


def key_of(material: Mapping[str, Any]) -> str:
    """Sha256 of the canonical JSON of the material."""
    return canonical_sha256(material)
