"""Histograms that widen."""

from __future__ import annotations

import numpy as np
from calibration_tools import filled

from tvmquant.calibration.histogram import Histogram

RNG = np.random.default_rng(0)


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


def test_magnitudes_end_at_the_largest_value():
    histogram = filled(Histogram(16), np.array([-0.5, 0.3, 0.6, 0.0]), np.array([2.0]))
    counts = histogram.magnitudes()
    assert counts.sum() == 5
    assert (len(counts) - 1) * histogram.width <= 2.0 <= len(counts) * histogram.width
    assert not Histogram(16).magnitudes().size


def robust(*arrays):
    return filled(Histogram(robust=True), *arrays)


def test_a_rare_outlier_does_not_count():
    pieces = [RNG.standard_normal(2000) for _ in range(8)]
    pieces[0][5] = 1e8
    histogram = robust(*pieces)
    histogram.settle()
    assert histogram.leaves_out
    assert histogram.limit < 10 and histogram.high < 10
    assert histogram.counts.sum() == 8 * 2000 - 1


def test_large_values_in_every_update_count():
    pieces = [np.r_[np.full(2000, 1e-5), 1.0] for _ in range(8)]
    histogram = robust(*pieces)
    histogram.settle()
    assert not histogram.leaves_out
    assert histogram.high == 1 and histogram.counts.sum() == 8 * 2001
    once = robust(pieces[0])
    once.settle()
    assert once.high == 1


def test_extremes_of_float32():
    for value in (3e38, 1e-38, 1e-45):
        histogram = robust(np.array([value]), np.array([-value]))
        assert histogram.counts.sum() == 2
        assert np.isfinite(histogram.centers).all()
