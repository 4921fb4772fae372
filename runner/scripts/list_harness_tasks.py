"""List the tasks that come with the installed lm-evaluation-harness: spec.folder/tasks.json.

lm_eval: its version; sources: digest of all files of its tasks; shelves: [folder, data set, split
asked, split of examples, number of examples, {task: configuration of the data set, or that and the
YAML file where it is not TASK.yaml}]; groups: name of a group or a tag -> tasks and groups in it;
figures: group -> what is said of it as a whole, [metric, filters or null, are tasks weighted by
their rows?]; unfit: reason -> names that cannot be measured here. environments/harness.tasks.json
is this list: reading 14,000 YAML files takes minutes, and a check of a recipe a second.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_eval.config.group import AggMetricConfig, GroupConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from runner.scripts.evaluation import harness_tasks
from runner.scripts.spec import Events, Spec, main

Index = Mapping[str, Entry]
# What a group says about itself; everything else would change its members.
_OF_GROUPS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"})


def list_tasks(spec: Spec, events: Events) -> None:
    """Read every YAML file, and import the Python that they name: is all that it needs there?"""
    (spec.folder / "tasks.json").write_text(text_of(TaskManager().task_index), encoding="utf-8")


def text_of(index: Index) -> str:
    """One line for each shelf and group, so that a new version's changes can be read."""
    shelves: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    figures: dict[str, list[Any]] = {}
    unfit: dict[str, list[str]] = {}
    broken = _unloadable(index)
    for name, entry in sorted(index.items()):
        if entry.kind in (Kind.GROUP, Kind.TAG):
            if (members := _members(entry, index)) is not None:
                groups[name] = members
                figures[name] = figures_of(entry.cfg or {})
            reason = "" if name in groups else "changes settings of its tasks"
        elif reason := harness_tasks.unfit(entry.cfg or {}):
            pass
        elif name in broken:
            reason = "needs Python packages that environment harness has not"
        else:
            shelf, what = place_of(name, entry.cfg or {}, entry.yaml_path)
            shelves.setdefault(json.dumps(shelf), {})[name] = what
        if reason:
            unfit.setdefault(reason, []).append(name)
    return _text(
        lm_eval=json.dumps(importlib.metadata.version("lm_eval")),
        sources=json.dumps(sources_digest()),
        shelves=_lines(
            [f"{shelf[:-1]}, {json.dumps(tasks)}]" for shelf, tasks in sorted(shelves.items())],
            "[]",
        ),
        groups=_lines([f"{json.dumps(k)}: {json.dumps(v)}" for k, v in groups.items()], "{}"),
        figures=figures_text(figures),
        unfit=_lines([f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(unfit.items())], "{}"),
    )


def figures_of(config: Mapping[str, Any]) -> list[Any]:
    """What a group's YAML wants of the group as a whole; nothing for most, and for a tag."""
    given = GroupConfig(
        group="", aggregate_metric_list=config.get("aggregate_metric_list")
    ).aggregate_metric_list
    return [
        [each.metric, each.filter_list, bool(each.weight_by_size)]
        for each in given or ()
        if isinstance(each, AggMetricConfig) and each.aggregation == "mean"
    ]


def figures_text(figures: Mapping[str, list[Any]]) -> str:
    """Of the groups that have any."""
    return _lines([f"{json.dumps(k)}: {json.dumps(v)}" for k, v in figures.items() if v], "{}")


def _unloadable(index: Index) -> set[str]:
    """Tasks whose Python cannot be imported here; those of answers first: harness_tasks.load."""
    asked: dict[tuple[bool, str], bool] = {}
    found = set()
    for name, entry in sorted(index.items(), key=lambda each: (_of_choices(each[1]), each[0])):
        modules = sorted({path.rpartition(".")[0] for path in _functions(entry.cfg)})
        if entry.kind is not Kind.TASK or not modules or harness_tasks.unfit(entry.cfg or {}):
            continue
        key = (_of_choices(entry), " ".join(modules))
        if key not in asked:
            asked[key] = _loads(entry)
        if not asked[key]:
            found.add(name)
    return found


def _of_choices(entry: Entry) -> bool:
    return (entry.cfg or {}).get("output_type") == "multiple_choice"


def _loads(entry: Entry) -> bool:
    assert entry.yaml_path is not None
    try:
        harness_tasks.load(entry.yaml_path)
    except (Exception, SystemExit):  # whatever a module raises that misses something
        return False
    return True


def _functions(value: Any) -> Iterator[str]:
    """Functions that a configuration names: with paths, as they are read without importing."""
    if isinstance(value, str) and value.startswith(f"{harness_tasks.FOLDER}/"):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _functions(each)


def place_of(name: str, config: Mapping[str, Any], file: Path | None) -> tuple[list[Any], Any]:
    """The shelf a task stands on, and what is its own."""
    assert file is not None
    path = file.relative_to(harness_tasks.FOLDER)
    shelf = [
        path.parent.as_posix(),
        config["dataset_path"],
        harness_tasks.asked_split(config),
        harness_tasks.fewshot_split(config),
        config.get("num_fewshot"),
    ]
    own = config.get("dataset_name")
    return shelf, own if path.name == f"{name}.yaml" else [own, path.name]


def sources_digest() -> str:
    """Sha256 over names and contents of all files that tasks are made of."""
    whole = hashlib.sha256()
    for path in sorted(harness_tasks.FOLDER.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            name = path.relative_to(harness_tasks.FOLDER).as_posix()
            whole.update(f"{digest} {name}\n".encode())
    return whole.hexdigest()


def _members(entry: Entry, index: Index) -> list[str] | None:
    """What a group or a tag names, in the harness's order; None where it changes settings."""
    if entry.kind is Kind.TAG:
        return sorted(entry.tags)
    config = entry.cfg or {}
    if config.keys() - _OF_GROUPS or not isinstance(config.get("task"), list):
        return None
    found = list(_below(config["task"]))
    return found if all(name in index for name in found) else None


def _below(items: list[Any]) -> Iterator[str]:
    """The names in a list of members; "" for a member whose settings are changed."""
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("task"), list):  # a group in the group
            yield from [""] if item.keys() - _OF_GROUPS else _below(item["task"])
        else:
            yield item if isinstance(item, str) else ""


def _lines(lines: list[str], brackets: str) -> str:
    return brackets[0] + "\n" + ",\n".join(lines) + "\n" + brackets[1]


def _text(**parts: str) -> str:
    return "{\n" + ",\n".join(f'"{key}": {text}' for key, text in parts.items()) + "\n}\n"


if __name__ == "__main__":
    main(list_tasks)
