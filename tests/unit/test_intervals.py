"""The bootstrap against what theory says, and its promises for every pair of models."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runner.scripts.evaluation.intervals import FEW, estimate, with_interval


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    """Of many examples: 1.96 standard errors on either side, to the noise of 2,000 draws."""
    values = np.random.default_rng(3).normal(0.3, 2.0, 400)
    found = estimate(values.tolist(), [1.0] * 400)
    error = values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.12 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.12 * error)
    assert not found.few


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    hits = [1.0] * 60 + [0.0] * 140
    found = estimate(hits, [1.0] * 200)
    error = math.sqrt(0.3 * 0.7 / 200)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - 1.96 * error, abs=0.01)
    assert found.high == pytest.approx(0.3 + 1.96 * error, abs=0.01)


def test_an_interval_holds_the_truth_19_times_in_20() -> None:
    random = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        found = estimate(random.exponential(1.0, 100).tolist(), [1.0] * 100)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 400 <= 0.98


def test_sums_over_tokens_give_the_mean_over_all_tokens() -> None:
    found = estimate([10.0, 1.0], [10.0, 2.0])
    assert found.value == pytest.approx(11 / 12)
    assert (found.low, found.high) == (0.5, 1.0)  # the short one twice, the long one twice


@pytest.mark.parametrize("seed", range(8))
def test_exchanged_models_give_the_mirrored_interval(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 200))
    values = random.normal(0.1, 1.0, count)
    weights = random.integers(1, 40, count).astype(float).tolist()
    one, other = estimate(values.tolist(), weights), estimate((-values).tolist(), weights)
    assert one.low is not None
    assert one.high is not None
    assert (other.value, other.low, other.high) == (-one.value, -one.high, -one.low)
    assert one.low <= one.value <= one.high
    assert one == estimate(values.tolist(), weights)


def test_equal_models_differ_by_nothing() -> None:
    found = estimate([0.0] * 50, [3.0] * 50)
    assert (found.value, found.low, found.high, found.alike) == (0, 0, 0, True)


def test_one_example_has_no_interval_and_none_is_an_error() -> None:
    found = estimate([0.5], [1.0])
    assert (found.value, found.low, found.high, found.few) == (0.5, None, None, True)
    with pytest.raises(ValueError, match="needs examples"):
        estimate([], [])
    assert estimate([0.1] * (FEW - 1), [1.0] * (FEW - 1)).few
    assert not estimate([0.1] * FEW, [1.0] * FEW).few


def test_many_examples_are_drawn_in_parts_and_fit_into_memory() -> None:
    values = np.random.default_rng(1).normal(1.0, 1.0, 30_000)
    found = estimate(values.tolist(), [1.0] * 30_000)
    assert found.low is not None
    assert found.low == pytest.approx(values.mean() - 1.96 * values.std() / 30_000**0.5, abs=1e-3)


def test_a_measure_has_the_interval_of_its_estimate_and_one_example_none() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 35)
    found, same = with_interval("m", values), estimate(values.tolist(), [1.0] * 35)
    assert (found["m"], found["m_low"], found["m_high"]) == (same.value, same.low, same.high)
    assert with_interval("m", values[:1]) == {"m": values[0], "m_low": None, "m_high": None}
