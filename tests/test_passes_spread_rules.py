"""What single operators make of distributions."""

import numpy as np
from tvm import relax

from tvmquant.calibration.spread import Spread
from tvmquant.passes.spread_rules import applied, measured, picked


def call(make):
    """A call of an operator on two tensors, for its name and attributes."""
    a, b = (relax.Var(n, relax.TensorType((1, 4, 4, 2), "float32")) for n in "ab")
    return relax.BlockBuilder().normalize(make(a, b))


def test_tensors_of_one_root_vary_together():
    x = Spread.normal([1.0, 2.0], [1.0, 0.5])
    twice = applied(call(relax.op.add), "add", [x, x], {x.root: x})
    np.testing.assert_allclose(twice.points, 2 * x.points)
    assert twice.root is x.root
    y = Spread(x.points)
    apart = applied(call(relax.op.add), "add", [x, y], {x.root: x, y.root: y})
    np.testing.assert_allclose(apart.variance, 2 * x.variance, rtol=0.02)


def test_poles_stay_finite():
    x = Spread.normal(0.0, 1.0)
    one = np.ones((1, 1))
    made = applied(call(relax.op.divide), "divide", [one, x], {x.root: x})
    assert np.isfinite(made.points).all() and made.points.max() > 1


def test_channels_are_followed_by_number():
    points = np.arange(12.0).reshape(3, 4)
    ids = np.array([[[3, 1]], [[3, 0]]], np.float32)  # 0 is padding
    np.testing.assert_array_equal(picked(points, ids).points, points[:, [2, 0]])
    mixed = picked(np.tile(np.arange(4.0), (257, 1)), np.array([[1, 2], [4, 1]], np.float32))
    assert mixed.channels == 1
    np.testing.assert_allclose(mixed.mean, (0 + 1 + 3 + 0) / 4, atol=0.02)
    assert picked(points, np.zeros((2, 2), np.float32)) is None


def test_few_values_are_not_told_apart():
    rng = np.random.default_rng(0)
    assert measured([rng.standard_normal((4, 8, 3))]).channels == 1
    values = rng.standard_normal((100, 8, 3)) + np.array([0, 5, 9])
    np.testing.assert_allclose(measured([values]).mean, [0, 5, 9], atol=0.2)
