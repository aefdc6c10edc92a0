"""The percentile estimator."""

import numpy as np
from calibration_tools import filled
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmquant.calibration.percentile import PercentileEstimator

RNG = np.random.default_rng(0)


@settings(max_examples=25, deadline=None)
@example(1, 93.0, "uniform")
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
    # Where the share is a whole number of values, rounding decides between two neighbours.
    shares = np.clip([tail - 1e-9, tail + 1e-9, 100 - tail - 1e-9, 100 - tail + 1e-9], 0, 100)
    wanted = np.percentile(values, shares, method="inverted_cdf")
    low, high = estimator.range(8, False)
    assert wanted[0] - 2 * width <= low <= wanted[1] + 2 * width
    assert wanted[2] - 2 * width <= high <= wanted[3] + 2 * width


def test_percentile_of_everything_is_min_max():
    values = RNG.standard_normal(100)
    low, high = filled(PercentileEstimator(100), values).range(8, False)
    assert (low, high) == (np.float32(values.min()), np.float32(values.max()))
