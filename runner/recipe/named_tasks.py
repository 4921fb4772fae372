"""Tasks of `evaluate.harness` that are given by the name lm-evaluation-harness has for them.

What a name means is in environments/harness.tasks.json, beside the lock that pins the harness: no
check and no plan needs the harness itself, whose environment may not be built.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.system.folders import shipped

if TYPE_CHECKING:
    from runner.recipe.model import Harness, HarnessTask, Recipe

FILE = "harness.tasks.json"


@dataclass(frozen=True, slots=True)
class Known:
    """A task of the harness: its file there, and the data set of the hub it is about."""

    name: str
    file: str  # below the harness's folder of tasks
    repository: str
    config: str | None  # of the data set; None: its only one, or its default
    asked: str  # split
    examples: str | None  # split; None: they stand in the task itself
    num_fewshot: int | None

    def shots(self, wanted: int | None) -> int:
        """Examples before each question. A task that says 0 has a prompt of its own."""
        own = self.num_fewshot
        return (own or 0) if wanted is None or own == 0 else wanted

    def splits(self, wanted: int | None) -> tuple[str, ...]:
        """Those that must be there, with `wanted` examples before each question."""
        if self.examples is None or not self.shots(wanted):
            return (self.asked,)
        return tuple(dict.fromkeys((self.asked, self.examples)))


@dataclass(frozen=True, slots=True)
class Rows:
    """A split of a configuration of a data set of the hub, whatever files it lies in."""

    hub: str
    revision: str | None
    config: str | None
    split: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.hub} ({self.config or 'default'}, {self.split})"


@dataclass(frozen=True, slots=True)
class Member:
    """A task that a recipe asks for, by its own name or by its group's."""

    number: int  # of the item in `evaluate.harness.tasks`
    known: Known
    rows: Mapping[str, Rows]  # split ->


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The harness's own tasks: see runner/scripts/list_harness_tasks.py."""

    version: str
    tasks: Mapping[str, Known]
    groups: Mapping[str, tuple[str, ...]]  # name -> tasks and groups in it
    # group -> what is said of it as a whole: metric, filters, are tasks weighted by their rows?
    figures: Mapping[str, list[list[Any]]]
    unfit: Mapping[str, str]  # name -> why it cannot be measured here

    def below(self, name: str) -> Iterator[str]:
        """A group and all groups in it; nothing for a task."""
        if name in self.groups:
            yield name
        for member in self.groups.get(name, ()):
            yield from self.below(member)

    def leaves(self, name: str) -> Iterator[str]:
        """The tasks below a group, or the task itself; some may be unfit."""
        if name not in self.groups:
            yield name
        for member in self.groups.get(name, ()):
            yield from self.leaves(member)


@functools.cache
def catalogue() -> Catalogue:
    """Read once, and only for a recipe that names a task."""
    read: dict[str, Any] = json.loads((shipped("environments") / FILE).read_bytes())
    tasks = {}
    for folder, repository, asked, examples, shots, own in read["shelves"]:
        for name, what in own.items():
            config, file = what if isinstance(what, list) else (what, f"{name}.yaml")
            tasks[name] = Known(
                name, f"{folder}/{file}", repository, config, asked, examples, shots
            )
    return Catalogue(
        read["lm_eval"],
        tasks,
        {name: tuple(members) for name, members in read["groups"].items()},
        read["figures"],
        {name: words for words, names in read["unfit"].items() for name in names},
    )


def known_tasks(name: str) -> tuple[Known, ...]:
    """The task of that name, or the tasks of that group; none when one cannot be measured here."""
    listed = catalogue()
    if name not in listed.tasks and name not in listed.groups:
        return ()
    names = list(dict.fromkeys(listed.leaves(name)))
    return tuple(listed.tasks[each] for each in names) if not unfit(name) else ()


def unfit(name: str) -> str:
    """Why the harness's task or group cannot be measured here; "" for one that can, or is none."""
    listed = catalogue()
    bad = next((each for each in (name, *listed.leaves(name)) if each in listed.unfit), None)
    return "" if bad is None else f"{bad} {listed.unfit[bad]}"


def all_names() -> Iterator[str]:
    """Every name that a recipe could have meant."""
    yield from catalogue().tasks
    yield from catalogue().groups


def repository_of(item: Mapping[str, Any]) -> str | None:
    """The repository that `revision` in a part of a resolved recipe is of; a task's may follow from
    its name."""
    if item.get("name") is None:
        hub = item.get("hub")
        return None if hub is None else str(hub)
    found = {known.repository for known in known_tasks(str(item["name"]))}
    return found.pop() if len(found) == 1 else None


def repository(task: HarnessTask) -> str | None:
    """The same of a task in a recipe."""
    return repository_of({"name": task.name, "hub": task.hub})


def members(recipe: Recipe) -> Iterator[Member]:
    """Every task that is given by a name, groups unfolded, in the recipe's order."""
    harness = recipe.evaluate.harness if recipe.evaluate else None
    for number, task in enumerate(harness.tasks if harness else ()):
        if task.name is None:
            continue
        assert harness is not None
        for known in known_tasks(task.name):
            yield Member(number, known, _rows(harness, task, known))


def figures(recipe: Recipe) -> list[dict[str, Any]]:
    """The groups that a recipe names, and those in them, of which the harness says something as a
    whole: `group`, its `tasks`, and `metrics`: [metric, filters or null, weighted by rows]."""
    harness = recipe.evaluate.harness if recipe.evaluate else None
    named = [task.name for task in (harness.tasks if harness else ()) if task.name is not None]
    if not named:
        return []
    listed = catalogue()
    groups = dict.fromkeys(group for name in named for group in listed.below(name))
    return [
        {
            "group": group,
            "tasks": list(dict.fromkeys(listed.leaves(group))),
            "metrics": listed.figures[group],
        }
        for group in groups
        if group in listed.figures
    ]


def _rows(harness: Harness, task: HarnessTask, known: Known) -> dict[str, Rows]:
    return {
        split: Rows(known.repository, task.revision, known.config, split)
        for split in known.splits(harness.num_fewshot)
    }


def rows_of(recipe: Recipe) -> list[Rows]:
    """Everything that named tasks read, each once."""
    return list(dict.fromkeys(rows for each in members(recipe) for rows in each.rows.values()))
