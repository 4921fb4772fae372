"""Rules of `compare`: is there something to compare, and was it measured on the same?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.recipe.checks.registry import check
from runner.recipe.compared_recipes import POINTER, SECTION
from runner.recipe.finding import Finding
from runner.recipe.methods import CONVERSATIONS
from runner.recipe.model import DataFile, Recipe
from runner.recipe.paths import real_path
from runner.report.printable import quoted


@check(SECTION, "evaluate")
def both_are_evaluated(recipe: Recipe) -> Iterator[Finding]:
    """A page is made of what evaluations measured."""
    if recipe.compare is not None and recipe.evaluate is None:
        message = "this recipe does not evaluate its model, so there is nothing to compare"
        yield Finding("E283", "/compare", message, _ADD, "key")
    for number, other in enumerate(recipe.compared):
        if other.evaluate is None:
            message = f"the recipe {quoted(other.name, 80)} does not evaluate its model"
            yield Finding("E283", f"{POINTER}/{number}", message, f"{_ADD} to it")


_ADD = 'add "evaluate: {metrics: true}"'


@check(SECTION, "evaluate", "data", "seed")
def the_same_is_measured(recipe: Recipe) -> Iterator[Finding]:
    """Else the page says of most rows that they are not the same, when both models are trained."""
    if recipe.evaluate is None:
        return
    for number, other in enumerate(recipe.compared):
        if other.evaluate is None:
            continue
        if (without := _without_rows(recipe, other)) is not None:
            message = f"the recipe {quoted(without.name, 80)} holds out no rows, so there are none "
            message += "to set beside those of the other"
            yield Finding("W269", f"{POINTER}/{number}", message, _HOLD_OUT)
        elif found := list(_differs(recipe, other)):
            message = f"rows of {quoted(other.name, 80)} cannot be set beside this recipe's: "
            message += f"{_together(found)} differ{'' if len(found) > 1 else 's'}"
            hint = "let both recipes hold out the same rows, and measure the same of them"
            yield Finding("W264", f"{POINTER}/{number}", message, hint)


_HOLD_OUT = "give both the same data.validation, with a fraction above 0"


def _without_rows(one: Recipe, other: Recipe) -> Recipe | None:
    """Which of them alone holds out nothing."""
    without = [each for each in (one, other) if not each.data.validation.holds_out]
    return without[0] if len(without) == 1 else None


def _together(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _differs(one: Recipe, other: Recipe) -> Iterator[str]:
    """Settings that decide which rows are held out and what is kept of them, by their names."""
    ours, theirs = _held_out(one), _held_out(other)
    forms = _forms(one), _forms(other)
    if forms[0] != forms[1] and not forms[0] | forms[1] <= {*CONVERSATIONS}:
        # a pair's better side may be the row of a conversation in another file
        ours |= {name: theirs[name] for name in _FILES}
    yield from (name for name in ours if ours[name] != theirs[name])


_FILES = ("data.train", "data.validation.files")


def _forms(recipe: Recipe) -> set[str]:
    held = recipe.data.validation
    return {file.format for file in held.files or recipe.data.train}


def _held_out(recipe: Recipe) -> dict[str, Any]:
    held, measured = recipe.data.validation, recipe.evaluate
    assert measured is not None
    by_seed = not held.files and not held.stable and held.fraction > 0
    return {
        "data.train": [] if held.files else [_rows(recipe, each) for each in recipe.data.train],
        "data.validation.files": [_rows(recipe, each) for each in held.files],
        "data.validation.fraction": 0 if held.files else held.fraction,
        "data.validation.stable": held.stable,
        "data.validation.group_by": held.group_by,
        "data.validation.stratify": held.stratify,
        "seed": recipe.seed if by_seed else None,
        "data.system": recipe.data.system,
        "evaluate.questions": _path(recipe, measured.questions),
        "evaluate.metrics": measured.metrics,
        "evaluate.samples": measured.samples,
        "evaluate.max_new_tokens": measured.max_new_tokens,
    }


def _rows(recipe: Recipe, file: DataFile) -> tuple[Any, ...]:
    place = (_path(recipe, file.path), file.hub, file.revision, file.file)
    return (*place, file.format, dict(file.columns or {}), file.mix)


def _path(recipe: Recipe, text: str | None) -> str | None:
    return None if text is None else str(real_path(recipe, text))
