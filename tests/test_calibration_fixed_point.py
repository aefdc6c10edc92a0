"""Fractional lengths."""

import numpy as np
import pytest
from calibration_tools import filled

from tvmquant.calibration.fixed_point import FixedPointEstimator
from tvmquant.calibration.params import activation_params


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("kind", ["normal", "exponential"])
@pytest.mark.parametrize("size", [0.01, 1.0, 300.0])
def test_the_best_length_of_all(bits, kind, size):
    values = getattr(np.random.default_rng(0), kind)(size=20000) * size
    low, high = filled(FixedPointEstimator(), *np.array_split(values, 3)).range(bits, True)
    signed = kind == "normal"
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)

    def loss(scale):
        q = np.clip(np.rint(values / scale), qmin, qmax)
        return np.abs(q * scale - values).sum()

    scale = high / qmax
    assert np.log2(scale) == np.rint(np.log2(scale))
    assert low == qmin * scale
    assert loss(scale) <= 1.01 * min(loss(2.0**k) for k in range(-20, 12))
    # The range leads to that very scale.
    assert activation_params(low, high, bits, True, True)[0] == np.float32(scale)


def test_nothing_seen():
    assert FixedPointEstimator().range(8, False) == (0.0, 0.0)
    assert filled(FixedPointEstimator(), np.zeros(3)).range(8, True) == (0.0, 0.0)
