"""Ask the hub which commits the branches and tags of a recipe are, before anything is planned.

From then on the recipe names commits, so that its keys, its run.json and its results are those of a
recipe that was pinned to them: pinning later fetches and trains nothing again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StageFailed
from runner.recipe.base_recipe import (
    PLACES,
    section_of,
    with_base,
    with_scorer,
)
from runner.recipe.compared_recipes import all_recipes, with_compared
from runner.recipe.named_tasks import members, repository, repository_of
from runner.system.offline import require_network

if TYPE_CHECKING:
    from runner.recipe.model import (
        DataFile,
        Evaluate,
        HubFile,
        MeasuredFile,
        Model,
        Recipe,
        RewardModel,
    )
    from runner.recipe.named_tasks import Rows

    _Part = Model | RewardModel | DataFile | MeasuredFile | HubFile | Rows

KEPT_LOGS = 5  # of questions that failed
Asked = tuple[str, str | None, str]  # repository, revision, model | dataset


def pin_revisions(recipe: Recipe, runs: Path, say: Callable[[str], None]) -> Recipe:
    """`recipe` with a commit for every revision; the same object when nothing is to be asked.

    `runs` is the folder of its runs: when the hub cannot be asked, the last one names a commit.
    Raises StageFailed or MachineCannot.
    """
    asked = _unpinned(recipe)
    if not asked:
        return recipe
    names = ", ".join(f"{hub} at {revision or 'its main branch'}" for hub, revision, _ in asked)
    require_network(f"which commit is meant by {names} (pin it: `recipe lock`, then run the lock)")
    try:
        commits = dict(zip(asked, _ask(asked, say), strict=True))
    except StageFailed as error:
        if error.code == "E319" and (commit := _last_commit(recipe, runs)):
            error.hint += f"; to work without it pin model.revision: {commit}, of the last run"
        raise
    for (hub, revision, _), commit in commits.items():
        say(f"{hub}: {revision or 'the main branch'} is commit {commit}")
    return _pinned(recipe, commits)


def pinned_as(recipe: Recipe, locked: Mapping[str, Any]) -> Recipe:
    """`recipe` with the commits that its resolved form in a lock, `locked`, has. Asks nobody."""
    commits = _commits_in(recipe, locked)
    return _pinned(recipe, commits) if commits else recipe


def _commits_in(recipe: Recipe, locked: Mapping[str, Any]) -> dict[Asked, str]:
    model, files = locked["model"], _files_in(locked["data"])
    parts: list[_Part] = [
        recipe.model,
        *(file for _, file in recipe.data_files()),
        *recipe.data.measured_files,
    ]
    kinds = ["model", *("dataset" for _ in files)]
    pairs = [*zip(parts, [model, *files], kinds, strict=False)]
    if recipe.reward is not None:
        pairs.append((recipe.reward, locked.get("reward") or {}, "model"))
    pairs += [
        (file, task, "dataset")
        for number, file in _rows_of_tasks(recipe)
        for task in _tasks_in(locked)[number : number + 1]
    ]
    unpinned = set(_unpinned(recipe))
    commits = {}
    for part, locked_part, kind in pairs:
        asked = (part.hub or "", part.revision, kind)
        if asked in unpinned and repository_of(locked_part) == part.hub:
            commits[asked] = str(locked_part["revision"])
    inner: dict[Asked, str] = {}
    for place, name in PLACES.items():
        other, locked_one = (
            getattr(recipe, name),
            (locked.get(section_of(place)) or {}).get("recipe"),
        )
        inner |= {} if other is None or locked_one is None else _commits_in(other, locked_one)
    beside = (locked.get("compare") or {}).get("recipes", ())
    for other, locked_one in zip(recipe.compared, beside, strict=False):
        inner |= _commits_in(other, locked_one)
    return {**inner, **commits}


def asks_hub(recipe: Recipe) -> bool:
    """Does `pin_revisions` ask for anything?"""
    return bool(_unpinned(recipe))


def _rows_of_tasks(recipe: Recipe) -> Iterator[tuple[int, HubFile | Rows]]:
    """Number of a task, and a repository that rows of it are in."""
    yield from ((number, file) for _, number, _, file in recipe.task_files())
    for member in members(recipe):
        yield from ((member.number, rows) for rows in member.rows.values())


def _unpinned(recipe: Recipe) -> list[Asked]:
    """What must be asked for, each once."""
    from runner.recipe.model import is_commit

    parts: list[tuple[_Part, str]] = []
    for each in all_recipes(recipe):
        parts.append((each.model, "model"))
        parts += [] if each.reward is None else [(each.reward, "model")]
        parts += [(file, "dataset") for _, file in each.hub_files()]
        parts += [(file, "dataset") for _, file in _rows_of_tasks(each)]
    asked = [
        (part.hub, part.revision, kind)
        for part, kind in parts
        if part.hub is not None and not is_commit(part.revision)
    ]
    return list(dict.fromkeys(asked))


def _ask(asked: list[Asked], say: Callable[[str], None]) -> list[str]:
    """The commits, in order."""
    repositories = [
        {"id": hub, "revision": revision, "kind": kind} for hub, revision, kind in asked
    ]
    return list(ask_hub("hub_commits", {"repositories": repositories}, say)["commits"])


def ask_hub(
    script: str, hashed: Mapping[str, Any], say: Callable[[str], None]
) -> Mapping[str, Any]:
    """Measures of a script that asks the hub and writes nothing. Its log stays when it fails.

    Raises StageFailed or MachineCannot.
    """
    from runner.execution.context import StageContext
    from runner.execution.events import EventLog
    from runner.stages import load_stage
    from runner.system.folders import cache_folder
    from runner.system.hub import network_env

    folder = _log_folder()
    events = EventLog(folder / "events.jsonl")
    try:
        context = StageContext(
            stage=load_stage("fetch"),
            project_root=folder,
            recipe_folder=folder,
            log_folder=folder,
            scratch=folder,
            cache=cache_folder(),
            platform={},
            events=events,
            say=say,
        )
        measured = context.run_script(script, hashed, folder=folder, outside=network_env())
    finally:
        events.close()
    shutil.rmtree(folder)
    return measured


def _log_folder() -> Path:
    """A new folder in the cache; those of earlier questions that failed make room for it."""
    from runner.system.folders import cache_folder

    base = cache_folder() / "hub-questions"
    base.mkdir(parents=True, exist_ok=True)
    for old in sorted(base.iterdir(), key=lambda path: path.lstat().st_mtime_ns)[:-KEPT_LOGS]:
        shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=base))


def _last_commit(recipe: Recipe, runs: Path) -> str:
    """The commit of the same model that the newest finished run took; "" when there is none."""
    try:
        record = json.loads((runs / "latest" / "run.json").read_text(encoding="utf-8"))
        model = record["resolved"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(model["revision"]) if model.get("hub") == recipe.model.hub else ""


def _pinned(recipe: Recipe, commits: dict[Asked, str]) -> Recipe:
    """`recipe` with the commits in its values and in its resolved form."""

    def data(file: Any) -> Any:
        key = (file.hub or "", file.revision, "dataset")
        return replace(file, revision=commits.get(key, file.revision))

    resolved = recipe.resolved()
    _pin_resolved(resolved, commits)
    model = recipe.model
    commit = commits.get((model.hub or "", model.revision, "model"), model.revision)
    pinned = replace(
        recipe,
        model=replace(model, revision=commit),
        reward=None if recipe.reward is None else _pinned_reward(recipe.reward, commits),
        evaluate=_pinned_tasks(recipe.evaluate, commits),
        data=recipe.data.with_files(data),
        _resolved=resolved,
    )
    if recipe.base is not None:
        pinned = with_base(pinned, _pinned(recipe.base, commits))
    if recipe.scorer is not None:
        pinned = with_scorer(pinned, _pinned(recipe.scorer, commits))
    return with_compared(pinned, tuple(_pinned(each, commits) for each in recipe.compared))


def _pinned_reward(reward: RewardModel, commits: dict[Asked, str]) -> RewardModel:
    key = (reward.hub or "", reward.revision, "model")
    return replace(reward, revision=commits.get(key, reward.revision))


def _pinned_tasks(evaluate: Evaluate | None, commits: dict[Asked, str]) -> Evaluate | None:
    if evaluate is None or evaluate.harness is None:
        return evaluate
    tasks = tuple(
        replace(
            task,
            revision=commits.get((repository(task) or "", task.revision, "dataset"), task.revision),
        )
        for task in evaluate.harness.tasks
    )
    return replace(evaluate, harness=replace(evaluate.harness, tasks=tasks))


def _tasks_in(resolved: Mapping[str, Any]) -> list[dict[str, Any]]:
    evaluate = resolved.get("evaluate") or {}
    return list((evaluate.get("harness") or {}).get("tasks") or ())


def _pin_resolved(resolved: dict[str, Any], commits: dict[Asked, str]) -> None:
    files = [*_files_in(resolved["data"]), *_tasks_in(resolved)]
    models = [resolved["model"], *filter(None, (resolved.get("reward"),))]
    parts = [*((each, "model") for each in models), *((each, "dataset") for each in files)]
    for part, kind in parts:
        key = (repository_of(part) or "", part.get("revision"), kind)
        if key in commits:
            part["revision"] = commits[key]


def _files_in(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All files in a resolved section `data`: to train on, held out, measured by."""
    measured = (data.get("clean") or {}).get("decontaminate") or {}
    held_out = data["validation"].get("files", ())
    return [*data["train"], *held_out, *measured.get("files", ())]
