"""The estimator of least squared error."""

import numpy as np
import pytest
from calibration_tools import error, filled

from tvmquant.calibration.mse import MseEstimator

RNG = np.random.default_rng(0)


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
