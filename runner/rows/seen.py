"""Rows as a recipe's model will see them, by its own tokenizer and template from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot
from runner.rows.cleaned import steps_of
from runner.rows.script import written_by
from runner.stages.rows.columns import read_columns

if TYPE_CHECKING:
    from runner.recipe.model import Recipe


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


def files_of(recipe: Recipe) -> list[RowFile]:
    """The recipe's own files; those on the hub are left out."""
    return [
        RowFile(
            recipe.resolve(file.path),
            file.name,
            file.format,
            dict(file.columns or {}),
            read_columns(file, recipe),
            pointer.startswith("/data/validation/"),
            steps_of(recipe),
        )
        for pointer, file in recipe.data_files()
        if file.path is not None
    ]


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


def _described(file: RowFile, name: str) -> dict[str, Any]:
    columns = {"columns": file.columns} if file.columns else {}
    about = {"format": file.format, "input": name, "held_out": file.held_out}
    return {"name": file.name, **about, **columns}


def _fetched_model(recipe: Recipe) -> Path:
    from runner.plan.chain import plan_chain
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    *_, link = plan_chain(recipe, stages_of(recipe, "fetch"), Store(store_folder()))
    found = next(step.outputs for step in link.steps if step.stage == "fetch")
    if found is None:
        raise MachineCannot(
            "the model of the recipe is not at hand, so its tokens cannot be shown",
            hint=f"get it: recipe run {recipe.source.path} --until fetch",
            code="E863",
        )
    return found.folder / "model"
