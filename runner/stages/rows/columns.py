"""Which columns of a file rows are read from: others do not matter, whatever they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.scripts.data.formats import FIELDS

if TYPE_CHECKING:
    from runner.recipe.model import DataFile, Recipe


def read_columns(file: DataFile, recipe: Recipe) -> tuple[str, ...]:
    """Those that the format reads, as the file calls them, and those that rows are split by."""
    columns, split = file.columns or {}, recipe.data.validation
    fields = [columns.get(field, field) for field in FIELDS[file.format]]
    more = [column for column in (split.group_by, split.stratify) if column is not None]
    return tuple(dict.fromkeys((*fields, *columns.values(), *more)))
