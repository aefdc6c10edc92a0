"""Ranges from known distributions."""

import numpy as np
import pytest

from tvmquant.calibration.batch_norm import BatchNormEstimator
from tvmquant.calibration.mse import MseEstimator
from tvmquant.calibration.params import activation_params
from tvmquant.calibration.spread import Spread


def ranged(bits, *spreads, symmetric=False):
    estimator = BatchNormEstimator()
    for spread in spreads:
        estimator.add(spread)
    return estimator.range(bits, symmetric)


def test_eight_bits_reach_six_deviations_of_every_channel():
    spread = Spread.normal([0.0, 2.0], [1.0, 0.5])
    np.testing.assert_allclose(ranged(8, spread), (-6, 6))
    np.testing.assert_allclose(ranged(8, Spread.normal([0.0, 2.0], [1.0, 2.0], 0, 6)), (0, 6))
    np.testing.assert_allclose(ranged(8, spread, Spread.normal(9.0, 0.5)), (-6, 12))
    assert ranged(8) == (0, 0)


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_fewer_bits_clip_as_on_samples_of_the_mixture(bits, low):
    mean, std = [0.0, 1.0, -1.0], [1.0, 0.3, 2.0]
    spread = Spread.normal(mean, std, low)
    data = MseEstimator()
    x = np.maximum(np.random.default_rng(0).normal(mean, std, (100_000, 3)), low)
    data.update(x.astype(np.float32))

    def error(limits):
        scale, zero = activation_params(*limits, bits)
        q = np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1)
        return np.mean(((q - zero) * scale - x) ** 2)

    found = ranged(bits, spread)
    assert found[1] < spread.points.max() / 1.5
    assert error(found) < 1.05 * error(data.range(bits, False))


def test_dead_channels():
    assert ranged(4, Spread.normal([0.0, 0.0], [0.0, 0.0])) == (0, 0)
    low, high = ranged(4, Spread.normal([3.0], [0.0]))
    assert low <= 3 <= high
