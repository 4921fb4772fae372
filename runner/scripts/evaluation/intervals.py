"""How far a mean may be off: bootstrap intervals of single and of paired examples. Needs numpy.

The examples are drawn again, with replacement, RESAMPLED times; the interval is where the middle
95% of the means lie (the percentile method: B. Efron, Bootstrap Methods: Another Look at the
Jackknife, Annals of Statistics 7, 1979). A difference of two models is taken example by example
first (P. Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004). The
random numbers are the same every time, so that equal examples in an equal order give equal
intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
RESAMPLED = 2000  # times, for an interval
FEW = 30  # examples, fewer than which an interval is too narrow to be believed
_OUTSIDE = RESAMPLED // 40  # means beyond either end: 2.5%
_AT_ONCE = 1 << 20  # numbers drawn at once, which bounds the memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of `count` examples with its 95% interval; one example has none.

    `alike`: every example says the same, so the interval has no width and says nothing of others.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    alike: bool

    @property
    def few(self) -> bool:
        """Are there too few examples to say anything?"""
        return self.count < FEW


def estimate(values: Sequence[float], weights: Sequence[float]) -> Estimate:
    """Sum of `values` by sum of `weights`, one of each an example; all finite, weights positive.

    With weights of 1 it is the mean; with sums over an answer's tokens and their numbers it is the
    mean over all tokens, where whole answers are drawn again. Raises ValueError without examples.
    """
    tops, bottoms = np.array(values, np.float64), np.array(weights, np.float64)
    if not len(tops) or len(tops) != len(bottoms):
        raise ValueError("an estimate needs examples, each with a weight")
    value = float(tops.sum() / bottoms.sum())
    if len(tops) == 1:
        return Estimate(value, None, None, 1, alike=True)
    drawn = np.sort(_drawn_means(tops, bottoms))
    # Counted from either end, and not interpolated: exchanged models give exactly mirrored ends.
    low, high = float(drawn[_OUTSIDE]), float(drawn[-1 - _OUTSIDE])
    return Estimate(value, low, high, len(tops), alike=bool(np.ptp(tops / bottoms) == 0))


def _drawn_means(tops: Values, bottoms: Values) -> Values:
    random = np.random.default_rng(0)
    each = max(1, _AT_ONCE // len(tops))
    parts = []
    for first in range(0, RESAMPLED, each):
        count = min(each, RESAMPLED - first)
        chosen = random.integers(0, len(tops), (count, len(tops)))
        parts.append(tops[chosen].sum(axis=1) / bottoms[chosen].sum(axis=1))
    return np.concatenate(parts)


def with_interval(name: str, values: Values) -> dict[str, float | None]:
    """The mean of `values` under `name`, and the ends of its interval, for a measure.

    The same as `recipe compare` says of them, where they are in the order of their examples' ids.
    """
    found = estimate(values.tolist(), [1.0] * len(values))
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def interval(statistic: Callable[[Callable[[Values], Values]], float]) -> tuple[float, float]:
    """95% of what `statistic` is when rows are drawn again: of several groups, each of two or
    more."""
    random = np.random.default_rng(0)

    def draw(values: Values) -> Values:
        return values[random.integers(0, len(values), len(values))]

    found = [statistic(draw) for _ in range(RESAMPLED)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
