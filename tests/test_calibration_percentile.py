"""The percentile estimator."""

import numpy as np
import pytest
from calibration_tools import filled
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmquant.calibration.percentile import PercentileEstimator

RNG = np.random.default_rng(0)


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
