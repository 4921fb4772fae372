"""What a change of a recipe changes in its result: values, and the stages whose keys they touch."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from runner.plan.plan import list_changes, needs_of
from runner.plan.snapshot import file_digests
from runner.recipe.base_recipe import as_seen_from
from runner.recipe.model import build_resolved
from runner.recipe.named_tasks import repository
from runner.stages import ORDER, prepare, stages_of
from runner.stages.models.base_result import last_stage

if TYPE_CHECKING:
    from runner.recipe.model import (
        DataFile,
        Evaluate,
        HarnessTask,
        MeasuredFile,
        Model,
        Recipe,
        RewardModel,
    )
    from runner.stages.contract import Stage, Upstream

MAX_SHOWN = 200  # characters of a value
_Part = TypeVar("_Part", "Model", "RewardModel", "DataFile", "MeasuredFile", "HarnessTask")


@dataclass(frozen=True, slots=True)
class Changes:
    """`values`: one text each, defaults included. `files`: what both name and holds other bytes.
    Stages, in the order of the chain: `touched` would run again, `perhaps` only where another one
    gives them other bytes, `same` in no case; `added` and `removed` are in one recipe alone."""

    values: tuple[str, ...]
    files: tuple[str, ...]
    touched: tuple[str, ...]
    perhaps: tuple[str, ...]
    same: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Would the second recipe give anything else?"""
        return bool(self.touched or self.added or self.removed)


class _SameBytes:
    """Results of a stage, equal for both recipes: a digest is what was asked for."""

    files: tuple[str, ...] = ()  # which there are follows from the recipe that gives them

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def digest(self, pattern: str = "*") -> str:
        return f"{self._stage}/{pattern}"


def changes(first: Recipe, second: Recipe) -> Changes:
    """Compare two recipes. Reads the files that they name, for their digests; no network."""
    before, after = _materials(first), _materials(second)
    chain = stages_of(second)
    touched = {name for name in after if name in before and before[name] != after[name]}
    added = set(after) - set(before)
    reached = _reached(second, chain, touched | added)
    groups = {
        "touched": touched,
        "perhaps": reached - touched - added,
        "same": set(after) - reached,
        "added": added,
        "removed": set(before) - set(after),
    }
    files = _of_other_bytes(_contents(first, before), _contents(second, after))
    return Changes(
        tuple(list_changes(first.resolved(), second.resolved(), MAX_SHOWN)),
        tuple(files),
        **{name: _in_order(stages) for name, stages in groups.items()},
    )


def _in_order(stages: set[str]) -> tuple[str, ...]:
    return tuple(name for name in ORDER if name in stages)


def _reached(recipe: Recipe, chain: list[Stage], begun: set[str]) -> set[str]:
    """The stages of `begun`, and all that read what one of them gives, at first or second hand."""
    reached = set(begun)
    for stage in chain:  # in order: what it reads was looked at before
        if reached.intersection(needs_of(stage, chain, recipe)):
            reached.add(stage.NAME)
    return reached


def _of_other_bytes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in before if name in after and before[name] != after[name])


def _contents(recipe: Recipe, materials: dict[str, Any]) -> dict[str, Any]:
    """The files that a recipe names, as it names them -> digest."""
    found: dict[str, Any] = {}
    for inner in (recipe.base, recipe.scorer):
        found |= {} if inner is None else _contents_of_base(inner, recipe)
    if recipe.reward is not None:
        _, scorer = materials["fetch_reward"]
        found |= {f"{recipe.reward.path}/{name}": digest for name, digest in scorer.items()}
    _, model = materials["fetch"]
    found |= {f"{recipe.model.path}/{name}": digest for name, digest in model.items()}
    if "prepare" in materials:
        _, digests = materials["prepare"]
        files = (*recipe.data.train, *recipe.data.validation.files)
        for file, digest in zip(files, digests["train"] + digests["validation"], strict=True):
            found[str(file.path)] = digest
        found[recipe.data.chat_template] = digests.get("chat_template")
    return found


def _contents_of_base(base: Recipe, recipe: Recipe) -> dict[str, Any]:
    """The files of the recipe that `recipe` starts from, as they are seen from there."""
    inner = build_resolved(as_seen_from(base, recipe.folder), recipe.source.path)
    return _contents(inner, _materials(base))


def _materials(recipe: Recipe) -> dict[str, Any]:
    """What of recipe and files decides each stage's bytes, given equal bytes from upstream."""
    recipe = _with_commits(recipe)
    chain = stages_of(recipe)
    found = {}
    for stage in chain:
        upstream = {name: _SameBytes(name) for name in needs_of(stage, chain, recipe)}
        inputs = stage.key_inputs(recipe, cast("Upstream", upstream))
        found[stage.NAME] = (inputs, file_digests(stage, recipe))
    if recipe.base is not None:
        inputs, files = found["fetch"]
        found["fetch"] = (inputs | {"base": _of_result(recipe.base)}, files)
    if recipe.scorer is not None:
        inputs, files = found["fetch_reward"]
        found["fetch_reward"] = (inputs | {"base": _of_result(recipe.scorer)}, files)
    return found


def _of_result(base: Recipe) -> dict[str, Any]:
    """What decides the model that `base` gives to a recipe that starts from it."""
    stages = (*prepare.needs(base), "prepare", "train", last_stage(base))
    materials = _materials(base)
    return {name: materials[name] for name in stages if name in materials}


def _with_commits(recipe: Recipe) -> Recipe:
    """Branches of the hub as if each had a commit of its own: nobody is asked for the real ones."""

    data = recipe.data.with_files(_with_commit)
    base = None if recipe.base is None else _with_commits(recipe.base)
    scorer = None if recipe.scorer is None else _with_commits(recipe.scorer)
    model = _with_commit(recipe.model)
    reward = None if recipe.reward is None else _with_commit(recipe.reward)
    return dataclasses.replace(
        recipe,
        model=model,
        reward=reward,
        data=data,
        evaluate=_with_commits_of_tasks(recipe.evaluate),
        base=base,
        scorer=scorer,
    )


def _with_commits_of_tasks(evaluate: Evaluate | None) -> Evaluate | None:
    if evaluate is None or evaluate.harness is None:
        return evaluate
    harness = evaluate.harness
    tasks = tuple(_with_commit(task, repository(task)) for task in harness.tasks)
    return dataclasses.replace(evaluate, harness=dataclasses.replace(harness, tasks=tasks))


def _with_commit(part: _Part, hub: str | None = None) -> _Part:
    """`hub`: the repository of a part that does not name it itself."""
    hub = part.hub or hub
    if hub is None:
        return part
    name = hashlib.sha256(f"{hub}@{part.revision}".encode()).hexdigest()
    return dataclasses.replace(part, revision=name[:40])
