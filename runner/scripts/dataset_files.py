"""Which files of a data set repository hold a split of a configuration. Pure.

The data set's card (README.md) says it under `configs`; without a card the names of files and
folders do, as the hub reads them: CONFIG/SPLIT-00000-of-00001.parquet, data/SPLIT-*.parquet,
CONFIG/SPLIT/0000.parquet. Only Parquet and JSON count: a data set that runs a script of its own
has no rows that could be named by a digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import yaml

from runner.scripts.spec import ScriptError

SUFFIXES = (".parquet", ".jsonl", ".json")
CARD = "README.md"
# Other words for a split in names of files.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def files_of(
    paths: Iterable[str], card: bytes, hub: str, config: str | None, split: str
) -> list[str]:
    """Paths of the split's files, sorted. Raises ScriptError E317."""
    known = sorted(paths)
    configs = _configs(card)
    if configs:
        found = _by_card(known, configs, hub, config, split)
    else:
        found = _by_names(known, config, split)
    readable = [path for path in found if path.endswith(SUFFIXES)]
    if readable and len({PurePosixPath(path).suffix for path in readable}) == 1:
        return readable
    raise _not_there(known, found, hub, config, split)


def _configs(card: bytes) -> list[dict[str, Any]]:
    """The card's list `configs`, as far as it can be used; a broken card is as good as none."""
    found = re.match(r"---\r?\n(.*?\n)---\s*(\n|\Z)", card.decode("utf-8", "replace"), re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    listed = head.get("configs") if isinstance(head, dict) else None
    items = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [each for each in items if each.get("data_files") or each.get("data_dir")]


def _by_card(
    known: list[str], configs: list[dict[str, Any]], hub: str, config: str | None, split: str
) -> list[str]:
    names = [str(each.get("config_name", "default")) for each in configs]
    wanted = config or _default(configs, names)
    if wanted not in names:
        raise ScriptError(
            f"data set {hub} has no configuration {wanted or '(none is its default)'}: it has "
            f"{', '.join(names[:20])}",
            hint="the task asks for another state of the data set: choose another revision",
            code="E317",
        )
    chosen = configs[names.index(wanted)]
    folder = str(chosen.get("data_dir") or "").strip("/")
    inside = [path for path in known if not folder or path.startswith(f"{folder}/")]
    given = chosen.get("data_files")
    if not given:
        return _by_names(inside, None, split)
    patterns = _patterns(given, split)
    prefix = f"{folder}/" if folder else ""
    whole = [prefix + pattern.removeprefix("./") for pattern in patterns]
    return [path for path in inside if any(_matches(pattern, path) for pattern in whole)]


def _default(configs: list[dict[str, Any]], names: list[str]) -> str:
    marked = [name for name, each in zip(names, configs, strict=True) if each.get("default")]
    if marked or len(names) == 1:
        return (marked or names)[0]
    return "default" if "default" in names else ""


def _patterns(given: Any, split: str) -> list[str]:
    """Patterns of a split; where a card names no splits, everything is `train`."""
    if isinstance(given, dict):
        given = [{"split": key, "path": value} for key, value in given.items()]
    items = given if isinstance(given, list) else [given]
    of_split = [
        each.get("path") if isinstance(each, dict) else each
        for each in items
        if (each.get("split") if isinstance(each, dict) else "train") == split
    ]
    flat = [path for each in of_split for path in (each if isinstance(each, list) else [each])]
    return [path for path in flat if isinstance(path, str)]


def _matches(pattern: str, path: str) -> bool:
    """Does a card's pattern fit? `**` is any folders, all else stays in one name."""
    parts = path.split("/")
    reached = {0}  # how many parts the pattern's beginning may have taken
    for piece in pattern.split("/"):
        if piece == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {
                at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], piece)
            }
    return len(parts) in reached


def _by_names(known: list[str], config: str | None, split: str) -> list[str]:
    """Files whose own name or folder has the split's word in it, those of the configuration."""
    inside = [path for path in known if path.endswith(SUFFIXES) and not path.startswith(".")]
    if config is not None:
        of_config = [path for path in inside if config in PurePosixPath(path).parent.parts]
        named = [path for path in inside if _has_word(PurePosixPath(path).stem, (config,))]
        inside = of_config or named
    words = _WORDS.get(split, (split,))
    by_folder = [path for path in inside if set(PurePosixPath(path).parent.parts) & set(words)]
    return by_folder or [path for path in inside if _has_word(PurePosixPath(path).stem, words)]


def _has_word(name: str, words: Iterable[str]) -> bool:
    return any(
        re.search(rf"(?:^|[^A-Za-z0-9]){re.escape(word)}(?:[^A-Za-z]|$)", name) for word in words
    )


def _not_there(
    known: list[str], found: list[str], hub: str, config: str | None, split: str
) -> ScriptError:
    script = f"{hub.rpartition('/')[2]}.py"
    if script in known and not any(path.endswith(SUFFIXES) for path in known):
        return ScriptError(
            f"data set {hub} is made by a script of its own, {script}, which is never run",
            hint="the hub keeps many of these as Parquet too: put the commit of its branch "
            "refs/convert/parquet into revision",
            code="E317",
        )
    what = f"split {split} of configuration {config or 'default'}"
    if found:
        kinds = sorted({PurePosixPath(path).suffix or "no suffix" for path in found})
        message = f"data set {hub} has {what} as {', '.join(kinds)}, not as Parquet or JSON"
    else:
        some = [path for path in known if path.endswith(SUFFIXES)][:10]
        message = f"data set {hub} has no files for {what}" + (
            f"; it has {', '.join(some)}" if some else ""
        )
    return ScriptError(
        message,
        hint="choose another revision, for example the commit of its branch refs/convert/parquet, "
        "or write a task file with the rows as files",
        code="E317",
    )
