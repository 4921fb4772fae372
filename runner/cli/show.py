"""`recipe show x.yaml`: every value, and whether it was given or comes from a default."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.base_recipe import PLACES, section_of
from runner.recipe.compared_recipes import POINTER as COMPARED
from runner.recipe.flow import flow, is_deep
from runner.recipe.overrides import OPTION, add_option
from runner.report.printable import escaped

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

HELP = "print a recipe with every default, and where each value came from"
EXAMPLE = "recipe show --resolved recipes/quickstart.yaml"

JSON_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    from runner.recipe.shrink import HELP as SHRINK_HELP

    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file")
    parser.add_argument(
        "--resolved",
        action="store_true",
        help="also what comes from a default, not only what is given",
    )
    add_option(parser)
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="default: %(default)s"
    )


def main(args: argparse.Namespace) -> int:
    """Print the recipe. Returns 2, with the diagnostics, when it has an error."""
    from runner.recipe.load import check_recipe
    from runner.report.reporters import REPORTERS, print_beside, wants_color

    recipe, diagnostics = check_recipe(Path(args.recipe), args.set)
    if recipe is None:
        render = REPORTERS[args.format]
        sys.stdout.write(render(diagnostics, files=1, color=wants_color(sys.stdout)))
        return 2
    print_beside(diagnostics)
    if args.shrink:
        from runner.recipe.shrink import shrink_recipe

        recipe = shrink_recipe(recipe)
    shown = as_json if args.format == "json" else as_text
    sys.stdout.write(shown(recipe, resolved=args.resolved))
    return 0


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the text form: YAML, then the comment with its origin."""

    text: str
    pointer: str | None = None  # of the value that ends on this line


def as_text(recipe: Recipe, *, resolved: bool) -> str:
    """The recipe as YAML, each value with its place or `default` in a comment. Itself a recipe.

    The place is a line, with the file where there are several, or the option `--set NAME`.
    """
    values = _shown(recipe, resolved=resolved)
    lines = list(_mapping_lines(values, "", 0))
    width = min(48, max(len(line.text) for line in lines))
    return "".join(
        f"{line.text:<{width}}{_origin_comment(recipe, line)}".rstrip() + "\n" for line in lines
    )


def as_json(recipe: Recipe, *, resolved: bool) -> str:
    """The recipe and the origin of every value, by JSON pointer.

    `file` is where a given value stands; one of `--set` has its name under `set` instead.
    """
    import json

    values = _shown(recipe, resolved=resolved)
    report = {
        "version": JSON_VERSION,
        "file": str(recipe.source.path),
        "recipe": values,
        "origin": {pointer: _origin(recipe, pointer) for pointer in _leaves(values, "")},
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _shown(recipe: Recipe, *, resolved: bool) -> Any:
    """All values, or those that the recipe gives; then a recipe that it starts from by its path."""
    values = recipe.resolved()
    if resolved:
        return values
    values = _given(values, recipe, "")
    for place, name in PLACES.items():
        inner = getattr(recipe, name)
        if inner is not None and isinstance(recipe.source.at(place), str):
            values[section_of(place)]["recipe"] = _path_of(inner, recipe)
    for number, inner in enumerate(recipe.compared):
        if isinstance(recipe.source.at(f"{COMPARED}/{number}"), str):
            values["compare"]["recipes"][number] = _path_of(inner, recipe)
    return values


def _path_of(inner: Recipe, recipe: Recipe) -> str:
    """As it would be written in the recipe's own file."""
    return Path(os.path.relpath(inner.source.path.resolve(), recipe.folder)).as_posix()


def _place(recipe: Recipe, pointer: str) -> tuple[Recipe, str]:
    """The recipe of the chain that says the value at `pointer`, and where in it."""
    for place, name in PLACES.items():
        inner = getattr(recipe, name)
        if inner is not None and pointer.startswith(f"{place}/"):
            return _place(inner, pointer.removeprefix(place))
    for number, inner in enumerate(recipe.compared):
        if pointer.startswith(f"{COMPARED}/{number}/"):
            return _place(inner, pointer.removeprefix(f"{COMPARED}/{number}"))
    return recipe, pointer


def _given(values: Any, recipe: Recipe, pointer: str) -> Any:
    """`values` without what comes from a default."""
    if isinstance(values, dict):
        return {
            key: _given(value, recipe, f"{pointer}/{key}")
            for key, value in values.items()
            if recipe.origin(f"{pointer}/{key}") is not None
            or f"{pointer}/{key}" in (recipe.shrink or ())
        }
    if isinstance(values, list):
        return [_given(value, recipe, f"{pointer}/{i}") for i, value in enumerate(values)]
    return values


def _origin(recipe: Recipe, pointer: str) -> dict[str, Any]:
    if pointer in (recipe.shrink or ()):
        return {"given": False, "shrink": True}
    recipe, pointer = _place(recipe, pointer)
    span = recipe.origin(pointer)
    if span is None:
        return {"given": False}
    file = str(recipe.source.file(pointer))
    if not span.line:
        return {"given": True, "set": file.removeprefix(f"{OPTION} ")}
    return {"given": True, "file": file, "line": span.line, "column": span.column}


def _origin_comment(recipe: Recipe, line: _Line) -> str:
    if line.pointer is None:
        return ""
    if line.pointer in (recipe.shrink or ()):
        return "  # shrink"
    said, pointer = _place(recipe, line.pointer)
    span = said.origin(pointer)
    if span is None:
        return "  # default"
    file = escaped(str(said.source.file(pointer)))
    if not span.line:
        return f"  # {file}"
    several = said.source.bases or said.source.path != recipe.source.path
    return f"  # {file}:{span.line}" if several else f"  # line {span.line}"


def _leaves(values: Any, pointer: str) -> Iterator[str]:
    """Pointers of everything that holds no other value."""
    children = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in children:
        child = f"{pointer}/{key}"
        if isinstance(value, (dict, list)) and value:
            yield from _leaves(value, child)
        else:
            yield child


def _mapping_lines(values: dict[str, Any], pointer: str, indent: int) -> Iterator[_Line]:
    for key, value in values.items():
        child = f"{pointer}/{key}"
        head = f"{' ' * indent}{key}:"
        if isinstance(value, dict) and value:
            yield _Line(head)
            yield from _mapping_lines(value, child, indent + 2)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield _Line(head)
            yield from _item_lines(value, child, indent + 2)
        else:
            yield _Line(f"{head} {flow(value)}", child)


def _item_lines(values: list[Any], pointer: str, indent: int) -> Iterator[_Line]:
    for index, value in enumerate(values):
        child = f"{pointer}/{index}"
        if not is_deep(value):
            yield _Line(f"{' ' * indent}- {flow(value)}", child)
            continue
        first, *more = _mapping_lines(value, child, indent + 2)
        yield replace(first, text=f"{' ' * indent}- {first.text.lstrip()}")
        yield from more
