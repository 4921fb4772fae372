"""`recipe crosscheck`: one recipe trained in several ways, and what they have in common."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.report.beside import say

if TYPE_CHECKING:
    from runner.crosscheck.trained import Trained, Way
    from runner.recipe.model import Recipe

HELP = (
    "Train one recipe by our script, by LLaMA Factory and by its web UI in a browser, and compare "
    "tokens, every step and the adapter's bytes."
)
EXAMPLE = "recipe crosscheck recipes/quickstart.yaml --with native,llamafactory,webui"
USUAL = "native,llamafactory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe crosscheck`."""
    from runner.recipe import overrides

    parser.add_argument("recipe", type=Path, help="the recipe file")
    parser.add_argument(
        "--with",
        dest="ways",
        default=USUAL,
        metavar="WAYS",
        help="two or more of native, llamafactory, cli, webui, with commas between them; the first "
        f"is what the others are compared with (default: {USUAL})",
    )
    overrides.add_option(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where the report goes (default: a new folder in runs/NAME/crosscheck)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Train, compare, report. Exit code 7: not equal."""
    from runner.crosscheck.compare import compare
    from runner.crosscheck.own_defaults import read_defaults, rows
    from runner.crosscheck.result import as_data
    from runner.crosscheck.trained import train
    from runner.system.folders import cache_folder

    ways = _ways(args.ways)
    recipes = [_recipe(args, way) for way in ways]
    folder = (args.output or _new_folder(recipes[0])).resolve()
    trained: list[Trained] = []
    for recipe, way in zip(recipes, ways, strict=True):
        trained.append(train(recipe, way, folder / way.name, say))
    columns = list(dict.fromkeys(way.defaults for way in ways))
    read = read_defaults(columns, cache_folder(), say)
    data = as_data(
        recipes[0],
        trained,
        [compare(trained[0], other) for other in trained[1:]],
        rows(recipes[0], read, columns),
        columns,
    )
    _write(data, folder)
    _print(data, folder, args.format)
    return 0 if data["equal"] else 7


def _ways(text: str) -> list[Way]:
    """The ways by name. Raises UsageError (E890)."""
    from runner.crosscheck.trained import WAYS
    from runner.errors import UsageError
    from runner.recipe.suggest import nearest

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WAYS:
            found = nearest(name, list(WAYS))
            raise UsageError(
                f"there is no way {name!r}",
                hint=f"did you mean {found}?" if found else f"the ways are {', '.join(WAYS)}",
                code="E890",
            )
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise UsageError(
            "a crosscheck compares two or more different ways",
            hint=f"--with {USUAL}; the ways are {', '.join(WAYS)}",
            code="E890",
        )
    return [WAYS[name] for name in names]


def _recipe(args: argparse.Namespace, way: Way) -> Recipe:
    """The recipe as this way trains it: everything is checked before anything runs."""
    from runner.execution.revisions import pin_revisions
    from runner.execution.run_folder import runs_folder
    from runner.recipe.load import load_recipe
    from runner.report.reporters import print_beside

    overrides = [*args.set, f"train.backend={way.backend}"]
    recipe = load_recipe(args.recipe, warn=print_beside, overrides=overrides)
    recipe = pin_revisions(recipe, runs_folder(recipe.project_root, recipe.name), say)
    if way.name in ("cli", "webui"):
        from runner.crosscheck.by_cli import require_comparable

        require_comparable(recipe)
    if way.name == "webui":
        from runner.crosscheck.by_webui import require_possible

        require_possible(recipe)
    return recipe


def _new_folder(recipe: Recipe) -> Path:
    from runner.execution.run_folder import runs_folder

    stem = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return runs_folder(recipe.project_root, recipe.name) / "crosscheck" / stem


def _write(data: Mapping[str, Any], folder: Path) -> None:
    """crosscheck.json, .html and .md, and the pictures that the last one shows."""
    from runner.report.crosscheck_html import as_html, loss_curves
    from runner.report.crosscheck_markdown import as_markdown
    from runner.store.atomic import disk_errors, write_atomic

    with disk_errors("writing the crosscheck", folder):
        pictures = _pictures(data, folder / "pictures")
        write_atomic(folder / "pictures" / "loss.svg", loss_curves(data["ways"]) + "\n")
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(folder / "crosscheck.json", text + "\n")
        write_atomic(folder / "crosscheck.html", as_html(data))
        shown = {name: f"pictures/{name}" for name in [*pictures, "loss.svg"]}
        write_atomic(folder / "crosscheck.md", as_markdown(data, shown))


def _pictures(data: Mapping[str, Any], folder: Path) -> Sequence[str]:
    folder.mkdir(parents=True, exist_ok=True)
    found = [Path(path) for way in data["ways"] for path in way["screenshots"]]
    for picture in found:
        shutil.copyfile(picture, folder / picture.name)
    return [picture.name for picture in found]


def _print(data: Mapping[str, Any], folder: Path, style: str) -> None:
    from runner.report.crosscheck_text import print_crosscheck

    if style == "json":
        print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_crosscheck(data, str(folder), sys.stdout)
