"""Rules of a training by several processes: what has been shown to work, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding
from runner.recipe.in_parts import obstacles
from runner.recipe.model import Recipe


@check("model", "data", "train")
def several_processes_can_train_it(recipe: Recipe) -> Iterator[Finding]:
    """A model in parts is another program: what was not tried with it is refused."""
    if recipe.train.all_processes == 1:
        return
    for pointer, message, hint in obstacles(recipe):
        yield Finding("E290", pointer, f"several processes train together: {message}", hint)
