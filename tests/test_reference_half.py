"""Weights as float16 bits."""

import numpy as np
import pytest

from tvmquant import reference


def test_values_are_rounded_to_half_precision():
    x = np.array([1.0, -2.5, 0.1, 65504.0, 6e-8, 0.0, -0.0], np.float32)
    bits = reference.float_to_half(x)
    assert bits.dtype == np.uint16
    back = reference.half_to_float(bits)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, x.astype(np.float16).astype(np.float32))
    assert abs(back[2] - 0.1) < 0.1 * 2**-11


@pytest.mark.parametrize("bad", [65520.0, -1e6, np.inf, np.nan])
def test_what_float16_cannot_hold(bad):
    assert reference.float_to_half(np.array([1.0, bad], np.float32)) is None


def test_just_below_the_end_is_rounded_down():
    assert reference.float_to_half(np.array([65519.0], np.float32)) == 0x7BFF
