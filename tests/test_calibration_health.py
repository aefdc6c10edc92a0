"""What is odd about calibration data."""

import warnings

import numpy as np
import pytest

from tvmquant.calibration.health import TensorHealth, warn_of_tensors

RNG = np.random.default_rng(0)


def observed(*arrays, **options):
    health = TensorHealth()
    for array in arrays:
        health.observe(np.asarray(array, np.float32), **options)
    return health


def messages(*tensors, batches=16, samples=16):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_tensors(tensors, batches, samples)
    return [str(item.message) for item in caught]


def normal(*shape):
    return RNG.standard_normal(shape)


def test_only_finite_values_pass():
    values = np.array([[1, np.nan], [2, 3], [np.inf, 4]], np.float32)
    health = TensorHealth()
    np.testing.assert_array_equal(health.observe(values), [1, 2, 3, 4])
    assert (health.bad, health.seen, health.low, health.high) == (2, 6, 1, 4)
    np.testing.assert_array_equal(TensorHealth().observe(values, whole_rows=True), [[2, 3]])
    whole = normal(3, 4)
    assert TensorHealth().observe(whole) is whole


def test_nothing_to_say_about_good_data():
    good = observed(*normal(16, 4, 5, 6))
    assert messages(("good", good, False)) == []


def test_one_warning_a_kind_with_the_names():
    bad = [(f"t{i}", observed([np.nan, 1, 2], [1, 2, 3]), False) for i in range(7)]
    dead = ("dead", observed(np.zeros((2, 3)), np.zeros((2, 3))), False)
    nothing = ("nothing", observed([np.nan, np.nan]), False)
    silent = ("silent", observed(*(normal(16, 4, 6) * [1, 0, 1, 0, 1, 1])), False)
    found = messages(*bad, dead, nothing, silent)
    assert len(found) == 4
    assert "t0 (1 of 6 values), t1" in found[0] and "and 2 more" in found[0]
    assert "nothing but NaN" in found[1] and "nothing" in found[1]
    assert "always the same value" in found[2] and "dead (0)" in found[2]
    assert "silent (2 of 6)" in found[3]
    assert messages(silent, batches=4) == []


def test_one_sample():
    assert messages(("t", observed(normal(4, 5)), False), batches=1, samples=1) == [
        "calibration: all ranges rest on one sample; give a few dozen real inputs"
    ]


@pytest.mark.parametrize("left_out", [False, True])
def test_rare_outliers(left_out):
    arrays = list(normal(16, 40, 5))
    arrays[3][2, 2] = -1e8
    (text,) = messages(("layer", observed(*arrays), left_out))
    assert "layer (up to 1e+08, 99.9 % below " in text
    assert ("were left out" if left_out else "percentile leaves") in text


def test_large_values_of_every_sample_are_no_outliers():
    arrays = normal(16, 40, 5) * 1e-4
    arrays[:, 0, 0] = 1
    assert observed(*arrays).outlier is None
    assert observed(np.ones((2, 1))).silent_channels == 0
