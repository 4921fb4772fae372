"""What a run was made from: one list, which every format of statement says in its own words.

Everything comes from the run's lock, its record and its manifest, so the list is the same on every
machine. Files are named as the recipe names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from runner.recipe.base_recipe import recipes_of
from runner.recipe.compared_recipes import alone
from runner.recipe.model import build_resolved, is_commit
from runner.recipe.paths import named_paths
from runner.stages.fetch_data import named_files
from runner.stages.fetch_tasks import files_below, files_of, splits_of

if TYPE_CHECKING:
    from runner.attest.finished import Finished
    from runner.recipe.model import Model, Recipe, RewardModel


@dataclass(frozen=True, slots=True)
class Input:
    """One input. `kind`: source (of the base model), model (a file of it as fetched), data, file,
    environment or tool.

    `uri` is a package URL or another address without a host of a mirror; `digests` are by
    algorithm, `sha256` or `gitCommit`.
    """

    kind: str
    name: str
    uri: str = ""
    version: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    identity: str = ""  # of a tool: sha256 of everything that is pinned about it


def inputs_of(about: Finished) -> list[Input]:
    """All inputs of the run: base model, data, other files, environments, tools."""
    recipe = recipe_of(about.run.record["resolved"])
    files = _named_files(recipe, about.lock)
    found = [
        *(found for each in recipes_of(recipe) for found in _model_source(each.model)),
        *(found for each in recipes_of(recipe) for found in _reward_source(each.reward)),
        *(each for each in files if each.kind == "source"),
        *(
            Input("model", f"fetch/{path}", digests={"sha256": digest})
            for path, digest in sorted(about.lock["model"].items())
        ),
        *(each for each in files if each.kind == "data"),
        *_hub_data_of_bases(recipe),
        *_hub_data(recipe, about.made("fetch_data")),
        *_hub_tasks(recipe, about.made("fetch_tasks")),
        *(each for each in files if each.kind == "file"),
        *(
            Input("environment", f"environments/{role}.txt", digests={"sha256": digest})
            for role, digest in environments_of(about).items()
        ),
        *(
            Input(
                "tool",
                name,
                uri=f"pkg:generic/{name}@{pin['version']}",
                version=pin["version"],
                identity=pin["sha256"],
            )
            for name, pin in sorted(about.lock["tools"].items())
        ),
    ]
    # A file that is named twice (rows that are the questions too) is one input.
    return list({(each.kind, each.name): each for each in found}.values())


def environments_of(about: Finished) -> dict[str, str]:
    """Role -> sha256 of the lock file, for the environments that the run's stages have."""
    used = about.run.record["environments"]
    return {role: digest for role, digest in sorted(about.lock["environments"].items())
            if role in used}  # fmt: skip


def recipe_of(resolved: Mapping[str, Any]) -> Recipe:
    """The recipe for its values alone: no path of it is looked at.

    Without those that it is compared with, which are no inputs.
    """
    return alone(build_resolved(resolved, Path("recipe.yaml")))


def _named_files(recipe: Recipe, lock: Mapping[str, Any]) -> list[Input]:
    """The files that the recipe names. The lock has them under their paths from the run's folder,
    in the same order, since it holds the same recipe."""
    found = []
    as_locked = named_paths(recipe_of(lock["recipe"]))
    for named, locked in zip(named_paths(recipe), as_locked, strict=True):
        kind = _kind(named.pointer)
        for path, digest in lock["files"].items():
            if path == locked.text:
                found.append(Input(kind, named.text, digests={"sha256": digest}))
            elif named.kind == "model folder" and path.startswith(f"{locked.text}/"):
                name = PurePosixPath(named.text, path.removeprefix(f"{locked.text}/"))
                found.append(Input(kind, str(name), digests={"sha256": digest}))
    return found


def _kind(pointer: str) -> str:
    pointer = pointer.rpartition("/model/recipe")[2]  # of whichever recipe of the chain
    if pointer.startswith("/model/"):
        return "source"
    return "file" if pointer == "/data/chat_template" else "data"


def _model_source(model: Model) -> Iterator[Input]:
    """Where the base model came from: a wheel, or a commit of the hub; files are told apart."""
    if model.wheel is not None:
        name, _, version = model.wheel.partition("==")
        digests = {"sha256": model.sha256} if model.sha256 else {}
        yield Input("source", name, f"pkg:pypi/{name}@{version}", version, digests)
    elif model.hub is not None:
        yield _repository(model.hub, model.revision)


def _reward_source(reward: RewardModel | None) -> Iterator[Input]:
    """As `_model_source`; other recipes are told of by themselves."""
    if reward is not None and reward.hub is not None:
        yield _repository(reward.hub, reward.revision)


def _repository(hub: str, revision: str | None) -> Input:
    """A model of the hub, by its commit where that is known."""
    commit = (revision or "") if is_commit(revision) else ""
    digests = {"gitCommit": commit} if commit else {}
    uri = f"pkg:huggingface/{quote(hub)}" + (f"@{commit}" if commit else "")
    return Input("source", hub, uri, commit, digests)


def _hub_data_of_bases(recipe: Recipe) -> Iterator[Input]:
    """Rows that the recipes before this one learned from: their bytes are in those runs."""
    *bases, _ = recipes_of(recipe)
    for base in bases:
        for _, file in base.hub_files():
            commit = file.revision or ""
            digests = {"gitCommit": commit} if is_commit(commit) else {}
            uri = f"hf://datasets/{quote(file.hub or '')}@{commit}/{quote(file.file or '')}"
            yield Input("data", file.name, uri, commit, digests)


def _hub_tasks(recipe: Recipe, fetched: Mapping[str, str]) -> Iterator[Input]:
    """Rows that the models were asked."""
    for name, file in files_of(recipe).items():
        commit = (file.revision or "") if is_commit(file.revision) else ""
        at = f"@{commit}" if commit else ""
        uri = f"hf://datasets/{quote(file.hub)}{at}/{quote(file.file)}"
        digests = {"sha256": fetched[name]} | ({"gitCommit": commit} if commit else {})
        yield Input("data", file.name, uri, commit, digests)
    for name, rows in splits_of(recipe).items():
        commit = (rows.revision or "") if is_commit(rows.revision) else ""
        uri = f"hf://datasets/{quote(rows.hub)}" + (f"@{commit}" if commit else "")
        for path in files_below(fetched, name):
            digests = {"sha256": fetched[path]} | ({"gitCommit": commit} if commit else {})
            number = int(PurePosixPath(path).stem.rpartition("-")[2])
            yield Input("data", f"{rows.name} {number}", uri, commit, digests)


def _hub_data(recipe: Recipe, fetched: Mapping[str, str]) -> Iterator[Input]:
    for name, file in named_files(recipe):
        commit = file.revision if is_commit(file.revision) else ""
        at = f"@{commit}" if commit else ""
        yield Input(
            "data",
            file.name,
            f"hf://datasets/{quote(file.hub or '')}{at}/{quote(file.file or '')}",
            commit or "",
            {"sha256": fetched[name]} | ({"gitCommit": commit} if commit else {}),
        )
