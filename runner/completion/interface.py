"""What may stand where on a command line, read from the commands' own parsers.

A new command or option is completed without a change here. What a value is, is told by its name:
`recipe`, `run`, `codes`, or a metavar such as FOLDER.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTHING = ("nothing",)  # a value that only its writer knows
FILES = ("files",)
FOLDERS = ("folders",)
RECIPES = ("recipes",)  # folders lead to them
RUNS = ("runs",)

# Name of a value -> what it can be; a command's own entry wins.
_BY_NAME = {
    "recipe": RECIPES,
    "recipes": RECIPES,
    "paths": RECIPES,
    "run": RUNS,
    "runs": RUNS,
    "codes": ("codes",),
    "set": ("settings",),
    "FOLDER": FOLDERS,
}
_OF_COMMAND = {
    ("run", "recipes"): (*RECIPES, "locks", "bundles"),
    ("verify", "run"): (*RUNS, "bundles"),
    ("diff", "first"): (*RUNS, *RECIPES, "locks"),
    ("diff", "second"): (*RUNS, *RECIPES, "locks"),
    ("new", "model"): (*FILES, "models"),
}


@dataclass(frozen=True, slots=True)
class Word:
    """Something to type, and what it means in a line."""

    text: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Takes:
    """What one place of a command line can hold: kinds of paths, and some of `words`.

    A word that ends in "=" is the beginning of one.
    """

    kinds: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """An option by all its names; `takes` is None for one without a value."""

    names: tuple[Word, ...]
    takes: Takes | None
    repeats: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command; the last of its places is repeated when `more`."""

    word: Word
    options: tuple[Option, ...]
    places: tuple[Takes, ...]
    more: bool


def commands() -> list[Command]:
    """Every command of the command line, in its order."""
    from runner.cli.main import COMMANDS

    return [_command(Word(name, line)) for name, line in COMMANDS.items()]


def _command(word: Word) -> Command:
    parser = argparse.ArgumentParser(prog=f"recipe {word.text}")
    importlib.import_module(f"runner.cli.{word.text}").add_arguments(parser)
    actions: list[argparse.Action] = parser._actions  # argparse has no other way to ask
    if inner := [action for action in actions if isinstance(action, argparse._SubParsersAction)]:
        return _of_inner(word, inner[0])
    places = [action for action in actions if not action.option_strings]
    return Command(
        word,
        tuple(_option(word.text, action) for action in actions if action.option_strings),
        tuple(_takes(word.text, action) for action in places),
        more=bool(places) and _repeats(places[-1]),
    )


def _of_inner(word: Word, action: argparse._SubParsersAction[argparse.ArgumentParser]) -> Command:
    """A command with commands of its own: first their names, then what any of them takes."""
    helps = {choice.dest: _one_line(choice) for choice in action._choices_actions}
    names = tuple(Word(name, helps.get(name, "")) for name in action.choices)
    options: dict[str, Option] = {}
    kinds: dict[str, None] = {}
    for parser in action.choices.values():
        for each in parser._actions:
            if each.option_strings:
                options.setdefault(each.option_strings[-1], _option(word.text, each))
            else:
                kinds.update(dict.fromkeys(_takes(word.text, each).kinds))
    paths = FILES if kinds.keys() >= {*FILES} else tuple(kinds)  # recipes are files, too
    places = (Takes(words=names), Takes(kinds=paths))
    return Command(word, tuple(options.values()), places, more=True)


def _option(command: str, action: argparse.Action) -> Option:
    said = _one_line(action)
    names = tuple(Word(name, said) for name in action.option_strings)
    takes = None if action.nargs == 0 else _takes(command, action)
    return Option(names, takes, repeats=_repeats(action))


def _repeats(action: argparse.Action) -> bool:
    return action.nargs in ("+", "*") or type(action).__name__ == "_AppendAction"


def _one_line(action: argparse.Action) -> str:
    said = action.help or ""
    if said != argparse.SUPPRESS and "%(" in said:
        said %= {**vars(action), "prog": "recipe"}
    return " ".join(said.split()) if said != argparse.SUPPRESS else ""


def _takes(command: str, action: argparse.Action) -> Takes:
    if action.choices is not None:
        return Takes(words=tuple(Word(str(choice)) for choice in action.choices))
    names = [action.dest, *([action.metavar] if isinstance(action.metavar, str) else [])]
    kinds = next(_known_kinds(command, names), FILES if action.type is Path else NOTHING)
    words = tuple(word for kind in kinds if kind in _WORDS for word in _WORDS[kind]())
    return Takes(tuple(kind for kind in kinds if kind not in _WORDS), words)


def _known_kinds(command: str, names: list[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        if (command, name) in _OF_COMMAND:
            yield _OF_COMMAND[command, name]
        if name in _BY_NAME:
            yield _BY_NAME[name]


def _codes() -> Iterator[Word]:
    from runner.report.explanations import explained, title

    return (Word(code, title(section)) for code, section in explained().items())


def _settings() -> Iterator[Word]:
    """Keys of a recipe by their dotted names, as `--set` takes them; items of lists have none."""
    from runner.recipe.schema import load_schema

    words = {f"{name}=": said for name, said in _keys(load_schema(), "") if name != "schema"}
    return (Word(name, said) for name, said in words.items())


def _keys(schema: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{above}{name}", str(child.get("description", "")).replace("`", "")
        yield from _keys(child, f"{above}{name}.")
    for branch in schema.get("oneOf", ()):
        yield from _keys(branch, above)


# Kind -> the words that it stands for.
_WORDS: Mapping[str, Callable[[], Iterator[Word]]] = {
    "codes": _codes,
    "settings": _settings,
    "models": lambda: iter([Word("smollm2", "the small model of the quickstart")]),
}
