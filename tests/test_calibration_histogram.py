"""Histograms that widen, and the two estimators on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmquant.calibration.histogram import Histogram, MseEstimator, PercentileEstimator
from tvmquant.calibration.params import activation_params

RNG = np.random.default_rng(0)


def filled(estimator, *arrays):
    for array in arrays:
        estimator.update(array.astype(np.float32))
    return estimator


def test_widening_keeps_every_count_within_a_bin():
    pieces = [RNG.standard_normal(1000) * 4.0**k for k in range(-3, 4)]
    pieces += [np.full(3, 1e-3), np.zeros(5)]
    streamed = filled(Histogram(), *pieces)
    values = np.concatenate(pieces)
    assert streamed.counts.sum() == values.size
    assert (streamed.low, streamed.high) == (np.float32(values.min()), np.float32(values.max()))
    assert streamed.limit >= np.abs(values).max() > streamed.limit / 2
    edges = np.linspace(-streamed.limit, streamed.limit, streamed.bins + 1)
    exact = np.cumsum(np.histogram(values, edges)[0])
    below = np.cumsum(streamed.counts)
    # Moved by at most one bin: between the exact counts one bin before and one after.
    assert np.all(below[1:] >= exact[:-1])
    assert np.all(below[:-1] <= exact[1:])


def test_small_values_after_large_ones():
    histogram = filled(Histogram(), np.array([100.0]), np.array([1e-6, -1e-6]))
    assert histogram.counts.sum() == 3
    assert histogram.limit == 100


def test_centers_and_empty_updates():
    histogram = filled(Histogram(8), np.zeros(0), np.array([-1.0, 1.0]))
    np.testing.assert_allclose(histogram.centers, np.arange(-0.875, 1, 0.25))
    assert list(histogram.counts) == [1, 0, 0, 0, 0, 0, 0, 1]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.floats(90, 100),
    st.sampled_from(["normal", "uniform", "exponential"]),
)
def test_percentile_equals_numpy_within_two_bins(pieces, percentile, distribution):
    values = getattr(np.random.default_rng(pieces), distribution)(size=5000)
    estimator = filled(PercentileEstimator(percentile), *np.array_split(values, pieces))
    tail = (100 - percentile) / 2
    width = 2 * estimator.histogram.limit / estimator.histogram.bins
    wanted = np.percentile(values, [tail, 100 - tail], method="inverted_cdf")
    low, high = estimator.range(8, False)
    assert low == pytest.approx(wanted[0], abs=2 * width)
    assert high == pytest.approx(wanted[1], abs=2 * width)


def test_percentile_of_everything_is_min_max():
    values = RNG.standard_normal(100)
    low, high = filled(PercentileEstimator(100), values).range(8, False)
    assert (low, high) == (np.float32(values.min()), np.float32(values.max()))


@pytest.mark.parametrize("kind", [PercentileEstimator(99.0), MseEstimator()])
def test_nothing_seen(kind):
    assert kind.range(8, False) == (0.0, 0.0)


def error(values, low, high, bits):
    scale, zero = activation_params(low, high, bits)
    q = np.clip(np.rint(values / scale) + zero, 0, 2**bits - 1)
    return np.mean(((q - zero) * scale - values) ** 2)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("distribution", ["normal", "laplace", "exponential"])
def test_least_error_is_near_the_best_of_a_grid(bits, distribution):
    values = getattr(np.random.default_rng(1), distribution)(size=20000).astype(np.float32)
    estimator = filled(MseEstimator(), *np.array_split(values, 3))
    found = error(values, *estimator.range(bits, False), bits)
    grid = [
        error(values, values.min() * a, values.max() * b, bits)
        for a in np.linspace(0, 1, 21)
        for b in np.linspace(0.05, 1, 20)
    ]
    assert found <= 1.1 * min(grid)
    assert found <= 1.01 * error(values, values.min(), values.max(), bits)


def test_least_error_clips_outliers_of_few_bits():
    values = np.concatenate([RNG.standard_normal(10000), [40.0]])
    low, high = filled(MseEstimator(), values).range(2, False)
    assert -4 < low < 0 < high < 8
