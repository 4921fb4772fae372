"""Rules of what is held out and of how much is taken of each file."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding
from runner.recipe.model import Recipe
from runner.report.printable import quoted

_TRAIN = "/data/train"


@check("data")
def weights_are_of_every_file(recipe: Recipe) -> Iterator[Finding]:
    """A weight is a share of the whole: it says nothing alone, and nothing beside a `repeat`."""
    files = recipe.data.train
    weighted = [number for number, file in enumerate(files) if file.weight is not None]
    if not weighted:
        return
    if len(files) == 1:
        message = "a weight is a share beside other files, and there is one file"
        hint = "remove it; to train on its rows more often, write repeat"
        yield Finding("E254", f"{_TRAIN}/0/weight", message, hint, "key")
        return
    for number, file in enumerate(files):
        if file.weight is None:
            message = f"{quoted(file.name)} has no weight, and other files have one"
            hint = "give every file a weight, or none; repeat says how often rows are taken"
            yield Finding("E254", f"{_TRAIN}/{number}", message, hint)
        elif file.repeat != 1:
            message = "the weight says already how often the rows are taken"
            yield Finding("E254", f"{_TRAIN}/{number}/repeat", message, "remove one of the two")


@check("data")
def a_split_has_rows_to_split(recipe: Recipe) -> Iterator[Finding]:
    """Settings of a split that holds out nothing, or that contradict one another."""
    held_out = recipe.data.validation
    at = "/data/validation"
    if not held_out.holds_out:
        for name in held_out.settings:
            message = f"{name} has no effect: data.validation.fraction is 0"
            hint = "hold out some rows, for example 0.1, or remove it"
            yield Finding("E255", f"{at}/{name}", message, hint, "key")
    if held_out.stratify is not None and held_out.stratify == held_out.group_by:
        message = f"every group is a stratum of its own: both are by {quoted(held_out.stratify)}"
        hint = "remove one of the two, or name another column"
        yield Finding("E255", f"{at}/stratify", message, hint)
