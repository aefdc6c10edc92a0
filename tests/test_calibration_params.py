"""Scales and zero points of activations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvmquant.calibration import activation_params

BITS = st.sampled_from([8, 4, 2, 1])
ENDS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(ENDS, ENDS, BITS, st.booleans(), st.booleans())
def test_any_range(a, b, bits, symmetric, power_of_two):
    low, high = min(a, b), max(a, b)
    scale, zero = activation_params(low, high, bits, symmetric, power_of_two)
    levels = 2**bits - 1
    assert scale.dtype == np.float32
    assert np.isfinite(scale)
    assert scale > 0
    assert 0 <= zero <= levels
    if power_of_two:
        assert np.frexp(scale)[0] == 0.5
    if max(abs(low), abs(high)) > 1e-25:
        # The whole range, zero included, is represented up to half a step.
        slack = scale * (0.5 + 1e-4)
        assert scale * (0 - zero) <= min(low, 0) + slack
        assert scale * (levels - zero) >= max(high, 0) - slack


def test_known_values():
    assert activation_params(0, 2.55, 8) == (np.float32(0.01), 0)
    assert activation_params(-1, 3, 8) == (np.float32(4 / 255), 64)
    assert activation_params(1, 3, 4) == (np.float32(0.2), 0)
    assert activation_params(-3, -1, 2) == (np.float32(1), 3)
    assert activation_params(-1, 1, 1) == (np.float32(2), 0)
    assert activation_params(0.7, 0.7, 1) == (np.float32(0.7), 0)


def test_symmetric():
    assert activation_params(-1.27, 0.5, 8, symmetric=True)[1] == 128
    scale, zero = activation_params(-0.5, 1.27, 8, symmetric=True)
    assert (scale, zero) == (np.float32(0.01), 128)
    assert activation_params(0, 2.55, 8, symmetric=True) == (np.float32(0.01), 0)


def test_power_of_two_never_clips():
    assert activation_params(0, 2.55, 8, power_of_two=True) == (np.float32(2**-6), 0)
    assert activation_params(0, 255 / 64, 8, power_of_two=True) == (np.float32(2**-6), 0)


@pytest.mark.parametrize("low, high", [(0, 0), (0, 1e-38), (-1e-44, 1e-44)])
def test_degenerate_ranges(low, high):
    assert activation_params(low, high, 8) == (np.float32(1), 0)
