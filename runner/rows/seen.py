"""Rows as a recipe's model will see them, by its own tokenizer and template from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot, RecipeToolError
from runner.recipe.typed import typed
from runner.rows.cleaned import COMPARING, steps_of
from runner.rows.script import written_by
from runner.scripts.data.special_text import SpecialText
from runner.stages.fetch_data import output_name
from runner.stages.rows.columns import read_columns

if TYPE_CHECKING:
    from runner.plan.plan import Step
    from runner.recipe.model import DataFile, Recipe


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file to show rows of, as a recipe describes it."""

    path: Path
    name: str
    format: str
    columns: dict[str, str]
    read: tuple[str, ...] | None = None  # columns of Parquet; None for all
    held_out: bool = False
    clean: Mapping[str, Any] = field(default_factory=dict)  # step of the recipe -> its setting


def files_of(recipe: Recipe, absent: list[tuple[str | None, RecipeToolError]]) -> list[RowFile]:
    """The recipe's files: its own, and those of the hub that were fetched. The names of the others
    are put into `absent`, with MachineCannot E863."""
    on_hub = any(file.path is None for _, file in recipe.data_files())
    fetched = _step(recipe, "fetch_data") if on_hub else None
    found = []
    for pointer, file in recipe.data_files():
        if file.path is not None:
            found.append(_row_file(recipe, pointer, file, recipe.resolve(file.path)))
        elif fetched is not None and fetched.outputs is not None:
            path = fetched.outputs.path(_name_of(pointer, file))
            found.append(_row_file(recipe, pointer, file, path))
        else:
            why = fetched.reason if fetched is not None and not fetched.key else ""
            absent.append((file.name, _not_fetched(recipe, file, why)))
    return found


def _row_file(recipe: Recipe, pointer: str, file: DataFile, path: Path) -> RowFile:
    columns, held_out = dict(file.columns or {}), pointer.startswith("/data/validation/")
    read = read_columns(file, recipe)
    return RowFile(path, file.name, file.format, columns, read, held_out, steps_of(recipe))


def _name_of(pointer: str, file: DataFile) -> str:
    """Under which `fetch_data` puts the file that stands at `pointer` of the recipe."""
    _, _, kind, *_, number = pointer.split("/")
    return output_name(kind, int(number), file)


def _not_fetched(recipe: Recipe, file: DataFile, why: str) -> MachineCannot:
    return MachineCannot(
        f"{file.name} has not been fetched from the hub, so its rows are not shown"
        + (f": {why}" if why else ""),
        hint=f"get it: recipe run {typed(recipe)} --until fetch_data",
        code="E863",
    )


def seen_rows(recipe: Recipe, files: Sequence[RowFile], rows: int) -> list[dict[str, Any]]:
    """What `runner/scripts/inspect_rows` says of the first `rows` of each file.

    Raises MachineCannot E863 where the model has not been fetched, and StageFailed.
    """
    from runner.stages.prepare import template_file

    model = _fetched_model(recipe)
    own = recipe.data.chat_template == "model"
    named = {f"file-{number}": file.path for number, file in enumerate(files)}
    described = [_described(file, f"file-{number}") for number, file in enumerate(files)]
    settings = {
        "seed": recipe.seed,
        "system": recipe.data.system,
        **recipe.data.systems,
        "max_length": recipe.data.max_length,
        "too_long": recipe.data.too_long,
        "clean": steps_of(recipe),
        "template": None if own else recipe.data.chat_template,
        "rows": rows,
        "files": described,
    }
    template = {} if own else {"template": template_file(recipe)}
    inputs = {"model": model, **named, **template}
    with written_by("inspect_rows", "data", settings, inputs) as path:
        lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def dropped_rows(recipe: Recipe, files: Sequence[RowFile]) -> list[dict[str, int]]:
    """Of each file: step of the recipe's cleaning -> rows that it leaves out, of steps that look
    at one row alone. Raises StageFailed and MachineCannot.
    """
    clean = steps_of(recipe)
    if not files or not clean.keys() - set(COMPARING):
        return [{} for _ in files]
    settings = {
        "clean": clean,
        "system": recipe.data.system,
        **recipe.data.systems,
        "files": [_described(file, f"file-{number}") for number, file in enumerate(files)],
    }
    inputs = {f"file-{number}": file.path for number, file in enumerate(files)}
    with written_by("count_dropped", "data", settings, inputs) as path:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def special_of(recipe: Recipe) -> SpecialText:
    """Finds in turns the special tokens that the recipe's template writes; nothing where its model
    is not at hand."""
    from runner.rows.special import special_text_of

    found = _step(recipe, "fetch").outputs
    return special_text_of(recipe, found.folder / "model") if found else SpecialText(())


def _described(file: RowFile, name: str) -> dict[str, Any]:
    columns = {"columns": file.columns} if file.columns else {}
    about = {"format": file.format, "input": name, "held_out": file.held_out}
    return {"name": file.name, **about, **columns}


def _fetched_model(recipe: Recipe) -> Path:
    found = _step(recipe, "fetch").outputs
    if found is None:
        raise MachineCannot(
            "the model of the recipe is not at hand, so its tokens cannot be shown",
            hint=f"get it: recipe run {typed(recipe)} --until fetch",
            code="E863",
        )
    return found.folder / "model"


def _step(recipe: Recipe, stage: str) -> Step:
    """What is known of a stage of the recipe; it has outputs where they are in the store."""
    from runner.plan.chain import plan_chain
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    *_, link = plan_chain(recipe, stages_of(recipe, stage), Store(store_folder()))
    return next(step for step in link.steps if step.stage == stage)
