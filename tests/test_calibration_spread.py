"""Distributions of channels."""

import math

import numpy as np
import pytest

from tvmquant.calibration.spread import CUMULATIVE, WEIGHTS, Spread, Z, combine, from_samples


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def below(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def clipped(mean, std, low, high):
    """Mean and variance of a clipped normal variable, in closed form."""
    a, b = (low - mean) / std, (high - mean) / std
    inside = below(b) - below(a)
    first = mean * inside + std * (density(a) - density(b)) + low * below(a) + high * below(-b)
    bent = (a * density(a) if math.isfinite(a) else 0) - (b * density(b) if b < 40 else 0)
    second = (mean**2 + std**2) * inside + 2 * mean * std * (density(a) - density(b))
    second += std**2 * bent + low**2 * below(a) + high**2 * below(-b)
    return first, second - first**2


@pytest.mark.parametrize("high", [6.0, 1e6])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (-2, 1), (3, 0.5), (5, 4), (-4, 0.1)])
def test_moments_behind_a_relu_are_those_of_a_clipped_normal(mean, std, high):
    spread = Spread.normal(mean, std, 0.0, high)
    want = clipped(mean, std, 0.0, high)
    np.testing.assert_allclose(spread.mean[0], want[0], rtol=2e-3, atol=1e-4 * std)
    np.testing.assert_allclose(spread.variance[0], want[1], rtol=2e-3, atol=1e-4 * std**2)
    samples = np.clip(np.random.default_rng(0).normal(mean, std, 200_000), 0, high)
    np.testing.assert_allclose(spread.mean[0], samples.mean(), atol=0.02 * std)
    np.testing.assert_allclose(spread.variance[0], samples.var(), atol=0.02 * std**2)


def test_points_are_a_standard_normal_variable():
    assert WEIGHTS.sum() == pytest.approx(1)
    assert WEIGHTS @ Z**2 == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.cumsum(WEIGHTS) - WEIGHTS / 2, CUMULATIVE, atol=1e-3)


@pytest.mark.parametrize("function", [np.add, np.subtract, np.multiply, np.maximum])
def test_two_independent_tensors(function):
    a = Spread.normal([1.0, -1.0], [0.5, 2.0], 0.0, np.inf)
    b = Spread.normal(2.0, 1.0)
    made = combine(function, a, b)
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal([1.0, -1.0], [0.5, 2.0], (400_000, 2)), 0)
    want = function(x, rng.normal(2.0, 1.0, (400_000, 1)))
    np.testing.assert_allclose(made.mean, want.mean(0), atol=0.03)
    np.testing.assert_allclose(np.sqrt(made.variance), want.std(0), rtol=0.02)
    # Both at six deviations together is not to be expected.
    assert combine(np.add, b, b).points.max() == pytest.approx(4 + 6 * math.sqrt(2), rel=0.03)


def test_channels_together():
    spread = Spread.normal([0.0, 10.0], [1.0, 2.0])
    pooled = spread.pooled()
    assert pooled.channels == 1
    assert pooled.mean[0] == pytest.approx(5, abs=0.02)
    assert pooled.variance[0] == pytest.approx(2.5 + 25, rel=0.02)
    assert spread.pooled(np.array([0.0, 1.0])).mean[0] == pytest.approx(10, abs=0.02)
    taken = spread.take(np.array([1, 1, 0]))
    np.testing.assert_array_equal(taken.points, spread.points[:, [1, 1, 0]])
    assert Spread.normal(3.0, 1.0).take(np.arange(5)).channels == 1


def test_samples_there_and_back():
    spread = Spread.normal([0.0, 10.0], [1.0, 2.0], -1.0, 12.0)
    z = np.random.default_rng(2).standard_normal((50_000, 2))
    values = spread.sample(z.shape, z)
    np.testing.assert_allclose(values.mean(0), spread.mean, atol=0.03)
    again = from_samples(values)
    np.testing.assert_allclose(again.mean, spread.mean, atol=0.03)
    ends = [[-1, values[:, 1].min()], [z[:, 0].max(), 12]]
    np.testing.assert_allclose(again.points[[0, -1]], ends, atol=0.05)
