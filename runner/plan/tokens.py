"""How many tokens a training reads, as far as that can be told before its rows are prepared.

Of rows on this disk the texts are counted as a recommendation counts them, in
recipe/creation/facts.py. Of others, and where answers are drawn while training, every row is taken
to be as long as it may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.recipe.methods import METHODS

if TYPE_CHECKING:
    from runner.recipe.creation.facts import DataFacts
    from runner.recipe.model import DataFile, Recipe

BY_TEXTS = "estimated from the characters of the rows"
AT_MOST = "all rows as long as max_length"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of a whole training. `most`: no more than these, for want of an estimate."""

    count: float
    most: bool

    @property
    def source(self) -> str:
        """Where the number comes from, in words."""
        return AT_MOST if self.most else BY_TEXTS


def training_tokens(recipe: Recipe) -> Tokens | None:
    """What the training of `recipe` reads; None where its rows cannot be counted."""
    steps = training_steps(recipe)
    if steps is None:
        return None
    train, longest = recipe.train, recipe.data.max_length
    an_epoch = None if _draws(recipe) else _of_an_epoch(recipe)
    if an_epoch is None:
        batch = train.per_device_train_batch_size * train.gradient_accumulation_steps
        read = steps * train.all_processes * batch * METHODS[train.method].rows
        return Tokens(float(read * longest), most=True)
    rows, tokens = an_epoch
    if recipe.data.packing:
        rows = math.ceil(tokens / longest)
        tokens = rows * longest
    if train.max_steps is not None:
        return Tokens(steps * min(1.0, train.rows_per_step / rows) * tokens, most=False)
    return Tokens((train.num_train_epochs or 1) * tokens, most=False)


def training_steps(recipe: Recipe) -> int | None:
    """Optimizer steps of the training, rows not packed; None when the rows cannot be counted."""
    train = recipe.train
    if train.max_steps is not None:
        return train.max_steps
    rows = training_rows(recipe)
    if rows is None or train.num_train_epochs is None:
        return None
    return max(1, math.ceil(train.num_train_epochs * math.ceil(rows / train.rows_per_step)))


def training_rows(recipe: Recipe) -> int | None:
    """Rows that are trained on, about; None when a file is on the hub or too large to count."""
    from runner.recipe.checks.disk import count_rows
    from runner.scripts.data.dividing.mixing import rows_about

    counts = []
    for file in recipe.data.train:
        count = None if file.path is None else count_rows(recipe.resolve(file.path))
        if count is None:
            return None
        counts.append(count)
    sources = [file.mix for file in recipe.data.train]
    return round(rows_about(counts, sources, recipe.data.validation.fraction))


def _draws(recipe: Recipe) -> bool:
    """Does it read answers that no file has?"""
    return METHODS[recipe.train.method].generates or recipe.train.method == "ppo"


def _of_an_epoch(recipe: Recipe) -> tuple[float, float] | None:
    """Rows and tokens of one pass over the rows; None where their texts cannot be read here."""
    if training_rows(recipe) is None:  # then they are too many to be read here, too
        return None
    facts = _facts(recipe, recipe.data.train)
    if facts is None:
        return None
    counts = [each.rows for each in facts]
    sources = [file.mix for file in recipe.data.train]
    rows = _rows_of_each(counts, sources, recipe.data.validation.fraction)
    tokens = (n * _of_a_row(recipe, each) for n, each in zip(rows, facts, strict=True))
    return (sum(rows), sum(tokens)) if sum(rows) else None


def _rows_of_each(
    counts: Sequence[int], sources: Sequence[Mapping[str, Any]], fraction: float
) -> list[float]:
    """Rows of each file that are trained on, about."""
    from runner.scripts.data.dividing.mixing import times_of

    taken = [min(n, source.get("limit", n)) for n, source in zip(counts, sources, strict=True)]
    times = times_of(taken, sources)
    return [float(n * each) * (1 - fraction) for n, each in zip(taken, times, strict=True)]


def _of_a_row(recipe: Recipe, facts: DataFacts) -> float:
    """On average, both sides of a pair. The cap is put on the average: that is never too little."""
    from runner.recipe.creation.facts import tokens_of_text

    sides = METHODS[recipe.train.method].rows
    system = tokens_of_text(len((recipe.data.system or "").encode()))
    own = facts.tokens_of_a_row(sides) + sides * system
    return min(own, float(sides * recipe.data.max_length))


def _facts(recipe: Recipe, files: Sequence[DataFile]) -> list[DataFacts] | None:
    found = []
    for file in files:
        if file.path is None:
            return None
        path = recipe.resolve(file.path)
        try:
            state = path.stat()
            columns = tuple(sorted((file.columns or {}).items()))
            found.append(_read(path, file.format, columns, state.st_size, state.st_mtime_ns))
        except (OSError, UsageError):  # what is wrong with it is told by the rules of its rows
            return None
    return found


@lru_cache(maxsize=64)
def _read(
    path: Path, form: str, columns: tuple[tuple[str, str], ...], size: int, changed: int
) -> DataFacts:
    """Once for all machines that are asked about: `size` and `changed` tell a file from itself."""
    from runner.recipe.creation.inputs import facts_of_rows

    return facts_of_rows(path, form, dict(columns) or None)
