"""The command that does a run again, or goes on with it, as it would be typed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# of `recipe run` and `recipe join`; --detach is left out: it goes on either way
_FLAGS = (
    "no_wait",
    "no_preflight",
    "locked",
    "paranoid",
    "verify_twice",
    "offline",
    "trust_bundled_code",
)


def words_of(args: argparse.Namespace) -> list[str]:
    """The words of the command that `args` were read from, with everything that decides the run.

    Of several recipes all are named, also for a run of one of them: what is done is reused.

    >>> words_of(argparse.Namespace(command="run", recipe="x.yaml", set=["seed=7"], shrink=True))
    ['recipe', 'run', 'x.yaml', '--set', 'seed=7', '--shrink']
    """
    given = vars(args)
    words = ["recipe", str(given.get("command", "run")), *_recipe(args)]
    if address := given.get("address"):
        words.append("{}:{}".format(*address))
    words += typed_until(args)
    if address := given.get("rendezvous"):
        words += ["--rendezvous", "{}:{}".format(*address)]
    if given.get("into"):
        words += ["--into", str(given["into"])]
    return words + [f"--{name.replace('_', '-')}" for name in _FLAGS if given.get(name)]


def typed_until(args: argparse.Namespace) -> list[str]:
    """The words of `--until`; none where the bundle that is run says it."""
    until = getattr(args, "until", None)
    own = until and not getattr(args, "until_of_bundle", False)
    return ["--until", str(until)] if own else []


def named(args: argparse.Namespace) -> str:
    """The recipes and what makes them other ones, as a shell takes it."""
    return shlex.join(_recipe(args))


def _recipe(args: argparse.Namespace) -> list[str]:
    options = [word for each in args.set for word in ("--set", each)]
    shrink = ["--shrink"] if getattr(args, "shrink", False) else []
    recipes = getattr(args, "recipes", None) or [args.recipe]
    return [*map(str, recipes), *options, *shrink]


def command_of(record: Mapping[str, Any], folder: Path | None = None) -> str:
    """The command that goes on with the run of a run.json, whoever wrote that.

    `folder`: the run's own. Where the recipe's path leads from its project only, and not from the
    working folder, the command goes there first.
    """
    from runner.report.printable import escaped

    words = record.get("command")
    if not isinstance(words, list) or not words:
        words = list(_rebuilt(record))
    command = escaped(shlex.join(map(str, words)))
    place = None if folder is None else _leads_from(record, folder)
    return command if place is None else f"cd {escaped(shlex.quote(str(place)))} && {command}"


def _leads_from(record: Mapping[str, Any], folder: Path) -> Path | None:
    """The project of the run in `folder`, where the recipe's path leads from there alone."""
    file, project = str(record.get("recipe_file", "")), folder.resolve().parent.parent.parent
    there = project / file
    if not file or not os.path.lexists(there):
        return None
    return None if os.path.realpath(file) == os.path.realpath(there) else project


def _rebuilt(record: Mapping[str, Any]) -> Iterator[str]:
    """Of a run that no command line began, or an older version's."""
    yield from ("recipe", "run", str(record.get("recipe_file", "x.yaml")))
    said = record.get("set")
    for name, value in (said if isinstance(said, dict) else {}).items():
        yield from ("--set", f"{name}={json.dumps(value, ensure_ascii=False)}")
    if record.get("shrink") is not None:
        yield "--shrink"
    if record.get("until"):
        yield from ("--until", str(record["until"]))
