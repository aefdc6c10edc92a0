"""Smoothed ranges."""

import numpy as np
import pytest
from calibration_tools import filled

from tvmquant.calibration.moving_average import MovingAverageEstimator


def test_the_average_of_the_batches():
    batches = [np.array([-1.0, 2.0]), np.array([0.0, 4.0]), np.array([-3.0, 0.0])]
    low, high = filled(MovingAverageEstimator(0.5), *batches).range(8, False)
    assert low == pytest.approx(((-1 + 0) / 2 - 3) / 2)
    assert high == pytest.approx(((2 + 4) / 2 + 0) / 2)


def test_one_odd_batch_moves_it_little():
    batches = [np.array([-1.0, 1.0])] * 20 + [np.array([-100.0, 100.0])]
    assert filled(MovingAverageEstimator(), *batches).range(8, False)[1] == pytest.approx(10.9)


def test_nothing_seen():
    assert filled(MovingAverageEstimator(), np.zeros(0)).range(8, False) == (0.0, 0.0)
