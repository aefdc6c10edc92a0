"""The divergence of TensorRT."""

import numpy as np
import pytest
from calibration_tools import error, filled

from tvmquant.calibration.entropy import EntropyEstimator, best_threshold


def divergence(p, q):
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


def test_a_staircase_is_kept_whole():
    # Sixteen levels of equal counts: quantizing them to sixteen levels loses nothing.
    counts = np.repeat(np.arange(16, 0, -1), 8).astype(float)
    assert best_threshold(counts, 16) == len(counts)


def test_few_bins_are_kept_whole():
    assert best_threshold(np.ones(5), 8) == 5
    assert best_threshold(np.zeros(50), 8) == 50


def test_a_spike_in_a_low_bin_is_no_threshold():
    # What a constant background leaves: if the rest were clipped, nearly all would be two bins.
    counts = np.full(4096, 600.0)
    counts[15] = 10**5
    assert best_threshold(counts, 16) > 2000


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("at", [15, 300, 900])
def test_a_value_that_comes_again_and_again_hides_no_clipping(at, levels):
    values = np.abs(np.random.default_rng(1).laplace(size=10**6))
    counts = np.histogram(values, 4096, (0, values.max()))[0].astype(float)
    plain = best_threshold(counts, levels)
    counts[at] += 10**6
    assert best_threshold(counts, levels) == pytest.approx(plain, rel=0.25)


def test_a_far_outlier_is_cut_off():
    values = np.concatenate([np.random.default_rng(0).standard_normal(20000), [1000.0]])
    low, high = filled(EntropyEstimator(), values).range(8, False)
    assert 3 < high < 100 and -100 < low < -3


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_values_keep_their_side(bits, sign):
    values = sign * np.abs(np.random.default_rng(0).laplace(size=20000))
    low, high = filled(EntropyEstimator(), *np.array_split(values, 3)).range(bits, False)
    assert (low if sign > 0 else -high) == pytest.approx(0, abs=1e-3)
    assert 0 < (high if sign > 0 else -low) <= np.abs(values).max() * 1.001


@pytest.mark.parametrize("values", ["normal", "laplace"])
def test_signed_values_are_cut_alike_and_better_than_min_max_at_four_bits(values):
    values = getattr(np.random.default_rng(0), values)(size=20000)
    low, high = filled(EntropyEstimator(), values).range(4, False)
    assert low == pytest.approx(-high)
    assert error(values, low, high, 4) < error(values, values.min(), values.max(), 4)


def test_zeros_of_a_relu_do_not_decide():
    values = np.maximum(np.random.default_rng(0).laplace(size=20000), 0)
    many = np.concatenate([values, np.zeros(10**6)])
    ranges = [filled(EntropyEstimator(), v).range(4, False)[1] for v in (values, many)]
    assert ranges[0] == pytest.approx(ranges[1], rel=0.15)


def test_nothing_seen():
    assert EntropyEstimator().range(8, False) == (0.0, 0.0)
