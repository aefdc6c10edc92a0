"""Analytic clipping."""

import math

import numpy as np
import pytest
from calibration_tools import error, filled

from tvmquant.calibration.aciq import AciqEstimator, gaussian_factor, is_gaussian, laplace_factor


def test_the_factors_of_the_paper():
    # Section 3.1: 2.83, 3.89 and 5.03 times b for 2, 3 and 4 bits.
    assert [laplace_factor(b) for b in (2, 3, 4)] == pytest.approx([2.83, 3.89, 5.03], abs=0.01)
    assert [gaussian_factor(b) for b in (2, 3, 4)] == pytest.approx([1.71, 2.15, 2.55], abs=0.01)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_factors_are_minima(bits):
    def laplace(a):
        return 2 * math.exp(-a) + a * a / (3 * 4.0**bits)

    a = laplace_factor(bits)
    assert laplace(a) < min(laplace(a * 0.99), laplace(a * 1.01))


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
@pytest.mark.parametrize("relu", [False, True])
def test_the_range_is_nearly_the_best_one(bits, kind, relu):
    values = getattr(np.random.default_rng(0), kind)(size=50000)
    values = np.maximum(values, 0) if relu else values
    low, high = filled(AciqEstimator(), *np.array_split(values, 4)).range(bits, False)
    best = min(
        error(values, values.min() * f, values.max() * f, bits) for f in np.linspace(0.05, 1, 60)
    )
    assert error(values, low, high, bits) <= 1.1 * best


def test_it_knows_the_distributions():
    rng = np.random.default_rng(0)
    for values, gaussian in ((rng.normal(size=9999), True), (rng.laplace(size=9999), False)):
        assert is_gaussian(values.std(), np.abs(values).mean()) == gaussian


def test_a_mean_moves_the_range_unless_it_must_be_symmetric():
    values = np.random.default_rng(0).normal(0.5, 1.0, 50000)
    estimator = filled(AciqEstimator(), values)
    low, high = estimator.range(2, False)
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.05)
    low, high = estimator.range(2, True)
    assert low == pytest.approx(-high)


def test_nothing_seen_and_constants():
    assert AciqEstimator().range(8, False) == (0.0, 0.0)
    assert filled(AciqEstimator(), np.zeros(10)).range(4, False) == (0.0, 0.0)
    low, high = filled(AciqEstimator(), np.full(10, 3.0)).range(4, False)
    assert low <= 3 <= high + 1e-6
