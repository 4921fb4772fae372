"""From the steps of a training to figures that can be true. Pure.

Three kinds of tokens are told apart, since the published figures of this field often are not:
those without padding, those that were computed (padding too), and those with a label. What a token
costs is a lower bound (docs/performance.md), so that a rate above what the hardware can do is an
error of the measurement, never a feat.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import RecipeToolError

KINDS = ("non_pad", "padded", "supervised")


class ImpossibleFigure(RecipeToolError):
    """A figure above the roofline: a bug of ours in counting or timing (E933)."""

    exit_code = 3
    default_code = "E933"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the optimizer: seconds, tokens by kind, and when it ended, by the clock."""

    seconds: float
    tokens: Mapping[str, int]
    ended: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles; of one value all three are that."""

    lower: float
    median: float
    upper: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """`peak`: FLOP/s that the device cannot exceed, 0.0 when nobody knows; `source` says whence.

    `flop_per_token`: at least so many for a token that is trained on; None: shapes unknown.
    """

    peak: float
    source: str
    flop_per_token: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """`per_second`: tokens by kind, over all measured steps. `mfu`: of the peak, by tokens without
    padding; None when peak or shapes are unknown."""

    steps: int
    left_out: int
    seconds: Spread
    total: float  # seconds of all of them
    tokens: Mapping[str, int]  # of all of them, by kind
    per_second: Mapping[str, float]
    flops: float | None
    mfu: float | None


def steps_of(events: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The steps that a training reported, in their order."""
    return [
        Step(
            seconds=event["tokens"]["non_pad"] / event["tokens_per_second"],
            tokens=event["tokens"],
            ended=event["time"],
        )
        for event in events
        if event["event"] == "progress" and event.get("tokens_per_second")
    ]


def figures_of(steps: Sequence[Step], warm_up: int, roofline: Roofline) -> Figures:
    """Figures of the steps behind the first `warm_up`. Raises ImpossibleFigure (E933)."""
    measured = steps[warm_up:]
    total = sum(step.seconds for step in measured)
    counts = {kind: sum(step.tokens[kind] for step in measured) for kind in KINDS}
    _check_counts(counts)
    need = roofline.flop_per_token
    if need is not None and roofline.peak:
        _check_roofline(measured, need, roofline)
    useful = None if need is None else need * counts["non_pad"] / total
    return Figures(
        steps=len(measured),
        left_out=warm_up,
        seconds=spread([step.seconds for step in measured]),
        total=total,
        tokens=counts,
        per_second={kind: counts[kind] / total for kind in KINDS},
        flops=useful,
        mfu=useful / roofline.peak if useful is not None and roofline.peak else None,
    )


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of one value or more, between the values as numpy's default has them."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def _check_counts(counts: Mapping[str, int]) -> None:
    if not 0 < counts["supervised"] <= counts["non_pad"] <= counts["padded"]:
        raise ImpossibleFigure(
            f"{counts['supervised']} tokens with a label, {counts['non_pad']} without padding and "
            f"{counts['padded']} with it cannot be",
            hint="this is a bug: send us the run's events.jsonl",
        )


def _check_roofline(steps: Sequence[Step], need: float, roofline: Roofline) -> None:
    """Every step for itself: one that is too fast is not made good by others."""
    fastest = max(step.tokens["padded"] / step.seconds for step in steps)
    if fastest * need > roofline.peak:
        raise ImpossibleFigure(
            f"{fastest:,.0f} tokens/s would take at least {fastest * need:.2e} FLOP/s, and "
            f"{roofline.source} cannot do more than {roofline.peak:.2e}",
            hint="the figure is wrong, and so it is not shown: send us the run's events.jsonl",
        )
