"""Rows of a file as a recipe that cleans them reads them: what a step is for is no problem.

Standard library only. What the steps leave out is counted by `runner/scripts/count_dropped`, and
shown of the first rows by `runner/scripts/inspect_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.scripts.data.cleaning.report import STEP_FOR, Drop
from runner.scripts.data.cleaning.turns import dropped_if_broken, merged
from runner.scripts.data.conversation import Conversation, check_turns
from runner.scripts.data.convert import read_one
from runner.scripts.data.convert import read_to_clean as read_any
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.preference import check_compared
from runner.scripts.data.prompted import Prompted

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.scripts.data.writing import Read


COMPARING = ("exact_duplicates", "near_duplicates", "decontaminate")  # steps that compare rows


def steps_of(recipe: Recipe | None) -> dict[str, Any]:
    """Step -> its setting; prompts that a method answers itself are not cleaned."""
    from runner.recipe.methods import METHODS

    if recipe is None or METHODS[recipe.train.method].generates:
        return {}
    return recipe.data.cleaning


def read_to_clean(
    row: dict[str, Any], format_name: str, steps: Mapping[str, Any]
) -> tuple[Read, str]:
    """A row with its turns in order, and the step that leaves it out; "" for none.

    Raises RowError where no step is for what is wrong.
    """
    if not steps:
        return read_one(row, format_name), ""
    orders = steps.get("alternation")
    read = read_any(row, format_name, orders_turns=bool(orders))
    if isinstance(read, Prompted):
        return read_one(row, format_name), ""
    if orders:
        left = merged(read) if orders == "merge" else dropped_if_broken(read)
        if isinstance(left, Drop):
            return read, "alternation"
        read = left
    try:
        check_turns(read) if isinstance(read, Conversation) else check_compared(read)
    except RowError as error:
        step = STEP_FOR.get(error.code, "")
        if step not in steps:
            raise
        return read, step
    return read, ""
