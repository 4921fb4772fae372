"""What two trainings of one recipe have in common: tokens, every step, weights; and why not. Pure
but for reading the files that differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.crosscheck.trained import Trained


@dataclass(frozen=True)
class StepDifference:
    """The first step at which two traces say something else of `name`."""

    step: int
    name: str  # loss | grad_norm | learning_rate | steps
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """`second` beside `first`. `weights`: where the weights part, in words; "" when equal."""

    first: str
    second: str
    tokens_equal: bool
    loss: StepDifference | None
    grad_norm: StepDifference | None
    learning_rate: StepDifference | None
    loss_decimals: int | None  # with which losses could be compared; None: all of them
    weights: str
    why: str

    @property
    def equal(self) -> bool:
        """Is everything that was compared equal?"""
        steps = (self.loss, self.grad_norm, self.learning_rate)
        return self.tokens_equal and not self.weights and not any(steps)


def compare(first: Trained, second: Trained) -> Comparison:
    """Compare two trainings. Losses are compared with the decimals that both have."""
    known = [each for each in (first.loss_decimals(), second.loss_decimals()) if each is not None]
    decimals = min(known) if known else None
    parts = {
        name: first_step_difference(first.trace, second.trace, name, decimals)
        for name in ("loss", "grad_norm", "learning_rate")
    }
    tokens_equal = tokens_of(first) == tokens_of(second)
    weights = weights_difference(first, second)
    why = reason(tokens_equal=tokens_equal, weights=weights, **parts)
    return Comparison(
        first.way.name,
        second.way.name,
        tokens_equal,
        **parts,
        loss_decimals=decimals,
        weights=weights,
        why=why,
    )


def tokens_of(trained: Trained) -> str:
    """What the trainer read: as its own process said, else of the file that it was given."""
    return str(trained.measures.get("tokens_sha256") or tokens_sha256(trained.tokens_file))


def tokens_sha256(path: Path) -> str:
    """Over ids and labels of every row of a tokens file, as `llamafactory_run` counts them."""
    from runner.scripts.training.token_rows import read_token_rows

    made = hashlib.sha256()
    data = read_token_rows(path)
    for row in data.rows:
        for values in (row.input_ids, row.labels):
            made.update(len(values).to_bytes(8, "little") + values.astype("<i8").tobytes())
    return made.hexdigest()


def first_step_difference(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    name: str,
    decimals: int | None,
) -> StepDifference | None:
    """The first step whose values of `name` are not equal; other lengths are a difference too."""
    for one, other in zip(first, second, strict=False):
        left, right = float(one[name]), float(other[name])
        if name == "loss" and decimals is not None:
            left, right = round(left, decimals), round(right, decimals)
        if left != right or one["step"] != other["step"]:
            return StepDifference(int(one["step"]), name, left, right)
    if len(first) != len(second):
        return StepDifference(min(len(first), len(second)) + 1, "steps", len(first), len(second))
    return None


def weights_difference(first: Trained, second: Trained) -> str:
    """Where the trained weights part first: file, tensor, element; "" when every byte is equal."""
    from runner.verify.differences import compare_files

    before, after = first.weights, second.weights
    for path in sorted({*before, *after}):
        if path not in before or path not in after:
            return f"{path} is only of {first.way.name if path in before else second.way.name}"
        if before[path] != after[path]:
            return f"{path}: {compare_files(first.run.folder / path, second.run.folder / path)}"
    return ""


def reason(
    *,
    tokens_equal: bool,
    loss: StepDifference | None,
    grad_norm: StepDifference | None,
    learning_rate: StepDifference | None,
    weights: str,
) -> str:
    """What the first divergence says about its cause; "" when there is none."""
    if not tokens_equal:
        return "they were given other tokens: template, data or packing differ"
    if loss and loss.name == "steps":
        return "they trained another number of steps"
    if learning_rate and not _before(loss or grad_norm, learning_rate):
        return f"the learning rate differs from step {learning_rate.step} on: schedule or warm-up"
    if loss and loss.step == 1:
        return (
            "the first loss differs on equal tokens: weights at the start (seed, dtype), dropout, "
            "attention, or the order of rows"
        )
    if grad_norm and grad_norm.step == 1:
        return "the first loss is equal and its gradients are not: precision or another backward"
    if found := _earliest(loss, grad_norm):
        return (
            f"equal up to step {found.step - 1}, other from step {found.step} on: the update after "
            "it (optimizer, decay, clipping) or the order of rows"
        )
    return (
        "every step is equal as far as it is logged, and the last update is not" if weights else ""
    )


def _before(one: StepDifference | None, other: StepDifference) -> bool:
    return one is not None and one.step < other.step


def _earliest(*found: StepDifference | None) -> StepDifference | None:
    return min((each for each in found if each), key=lambda each: each.step, default=None)
