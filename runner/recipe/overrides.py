"""`--set NAME=VALUE`: a value for this time, as if a file that extends the recipe said it.

NAME is written as messages write it: `train.learning_rate`, `data.train[0].path`,
`train.adapter.rank_pattern."layers.0.q_proj"`. VALUE is YAML by the rules of recipes; a relative
path in it starts at the recipe's folder.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.recipe.schema import FILE_KEYS
from runner.recipe.source import Source, at_span, parse_source
from runner.report.diagnostic import Diagnostic
from runner.report.printable import escaped, quoted

OPTION = "--set"
MAX_PARTS = 32  # of a name, as deep as a recipe's values can be
METAVAR = "NAME=VALUE"
HELP = (
    "another value for this time, checked as if the recipe said it: train.learning_rate=1e-4; "
    "null takes a value away; may be repeated"
)
BACKEND = "--backend"
_TOKEN = re.compile(r'(?P<plain>[\w-]+)|(?P<quoted>"(?:[^"\\]|\\.)*")')
_INDEX = re.compile(r"\[(?P<index>[0-9]{1,6})\]")


def add_option(parser: argparse.ArgumentParser, help: str = HELP) -> None:
    """`--set`, as every command that reads a recipe has it."""
    parser.add_argument(OPTION, action="append", default=[], metavar=METAVAR, help=help)


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """`--backend NAME`, which is a `--set`."""
    parser.add_argument(
        BACKEND,
        dest=OPTION.strip("-"),
        action="append",
        type="train.backend={}".format,
        metavar="NAME",
        help=f"who trains: short for {OPTION} train.backend=NAME",
    )


def add_nodes_option(parser: argparse.ArgumentParser) -> None:
    """`--nodes N`, which is a `--set`."""
    parser.add_argument(
        "--nodes",
        dest=OPTION.strip("-"),
        action="append",
        type="train.nodes={}".format,
        metavar="N",
        help=f"machines that train together: short for {OPTION} train.nodes=N",
    )


class Nowhere(Exception):
    """The recipe has no place of that name."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or "recipe show --resolved RECIPE prints every value of a recipe"


@dataclass(frozen=True, slots=True)
class Override:
    """One option. `path` is `name` in parts: keys, and numbers of items from 0."""

    name: str
    path: tuple[str | int, ...]
    source: Source  # of the value, which has no line: its "file" is the option

    @property
    def value(self) -> Any:
        """As plain data."""
        return self.source.data

    def problem(self, code: str, message: str, hint: str) -> Diagnostic:
        """Something that is wrong with the option itself."""
        return at_span(self.source.path, code, None, message, hint=hint)


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Raises RecipeInvalid with everything that is wrong with the options as such."""
    made: list[Override] = []
    problems: list[Diagnostic] = []
    for text in texts:
        try:
            made.append(_parse(text))
        except RecipeInvalid as error:
            problems += error.diagnostics
    if problems:
        raise RecipeInvalid(problems)
    return made


def _parse(text: str) -> Override:
    path, end = _path(text)
    name, value = text[:end], text[end + 1 :]
    option = Path(f"{OPTION} {escaped(name or text)}")
    if not path or text[end : end + 1] != "=":
        message = f"{quoted(text, 60)} is not of the form {METAVAR}"
        hint = "write train.learning_rate=1e-4, data.train[0].format=alpaca, gguf.quantize=[Q8_0]"
        raise _refused(option, "E128", message, hint)
    if len(path) > MAX_PARTS:
        message = f"the name has {len(path)} parts; {MAX_PARTS} is the most"
        raise _refused(option, "E129", message, "recipe show --resolved RECIPE prints every value")
    if path[0] in FILE_KEYS:
        hint = "write a small recipe that extends the other, and run that one"
        raise _refused(option, "E129", f"{path[0]} is said by a file alone", hint)
    if not value.strip():
        hint = f"write {name}=null to take the value away, {name}='\"\"' for an empty text"
        raise _refused(option, "E128", "there is no value", hint)
    try:
        source = parse_source(value.encode("utf-8", "surrogatepass"), option)
    except RecipeInvalid as error:
        raise RecipeInvalid(_without_lines(error.diagnostics)) from None
    if source.problems:
        raise RecipeInvalid(_without_lines(source.problems))
    return Override(name, tuple(path), Source(path=option, data=source.data))


def _path(text: str) -> tuple[list[str | int], int]:
    """The parts of the name that `text` begins with, and where it ends."""
    import json

    path: list[str | int] = []
    end = 0
    while True:
        start = end + 1 if path and text[end : end + 1] == "." else end
        token = _TOKEN.match(text, start) if start > end or not path else None
        index = _INDEX.match(text, end) if path else None
        if token:
            try:
                path.append(token["plain"] or json.loads(token["quoted"]))
                str(path[-1]).encode()
            except ValueError:  # an escape that JSON does not have, or half a character
                return [], 0
            end = token.end()
        elif index:
            path.append(int(index["index"]))
            end = index.end()
        else:
            return path, end


def _without_lines(diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
    return [
        at_span(Path(each.file), each.code, None, each.message, hint=each.hint)
        for each in diagnostics
    ]


def _refused(option: Path, code: str, message: str, hint: str) -> RecipeInvalid:
    return RecipeInvalid([at_span(option, code, None, message, hint=hint)])
