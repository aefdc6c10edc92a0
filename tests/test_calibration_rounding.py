"""Rounding by the effect on the output: AdaRound and GPTQ on known moments."""

import itertools

import numpy as np
import pytest

from tvmquant.calibration.adaround import AdaRoundOptions, adaround
from tvmquant.calibration.gptq import gptq
from tvmquant.calibration.moments import Moments


def problem(groups=2, outputs=5, depth=20, seed=0, noise=0.0):
    """Correlated inputs, weights and a step for them."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((groups, depth, depth))
    x = rng.standard_normal((groups, 500, depth)) @ mix
    rows = rng.standard_normal((groups, outputs, depth))
    y = x @ rows.transpose(0, 2, 1) + noise * rng.standard_normal((groups, 500, outputs))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    xx = x.transpose(0, 2, 1) @ x / 500
    yx = y.transpose(0, 2, 1) @ x / 500
    data = Moments(xx, yx, (y**2).mean(1), np.zeros((groups, depth)), np.zeros((groups, outputs)))
    return rows, data


def steps(rows, bits):
    return np.abs(rows).max(-1, keepdims=True) / max(2 ** (bits - 1) - 1, 1)


def nearest(rows, scale, bits):
    return np.clip(np.rint(rows / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_adaround_takes_one_of_the_two_neighbours_and_gains(bits):
    rows, data = problem()
    scale = steps(rows, bits)
    q = adaround(rows, scale, bits, data)
    assert q.dtype == np.int8
    assert np.abs(q - rows / scale).max() < 1 + 1e-9
    before = data.error(nearest(rows, scale, bits) * scale)
    after = data.error(q * scale)
    assert np.all(after <= before)
    assert after.sum() < 0.6 * before.sum()


def test_adaround_is_near_the_best_of_all_combinations():
    rows, data = problem(1, 3, 8)
    scale = steps(rows, 3)
    floor = np.floor(rows / scale)
    q = adaround(rows, scale, 3, data, AdaRoundOptions(iterations=2000))
    for o in range(3):
        choices = [np.clip(floor[0, o] + up, -4, 3) for up in itertools.product((0, 1), repeat=8)]
        errors = [data.error(np.tile(c, (1, 3, 1)) * scale)[0, o] for c in choices]
        assert data.error(q * scale)[0, o] <= np.sort(errors)[3]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_gptq_beats_rounding_to_nearest_at_every_width(bits):
    rows, data = problem()
    scale = np.abs(rows).mean(-1, keepdims=True) if bits == 1 else steps(rows, bits)
    plain = np.where(rows >= 0, 1, -1) if bits == 1 else nearest(rows, scale, bits)
    q, fitted = gptq(rows, scale, bits, data)
    low, high = (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert q.dtype == np.int8 and low <= q.min() <= q.max() <= high
    if bits == 1:
        assert np.all(np.abs(q) == 1)
    assert np.all(fitted > 0)
    before, after = data.error(plain * scale), data.error(q * fitted)
    assert np.all(after <= before)
    assert after.sum() < 0.5 * before.sum()


def test_gptq_is_about_as_good_as_adaround():
    rows, data = problem(1, 20, 40)
    scale = steps(rows, 4)
    q, same = gptq(rows, scale, 4, data, refit=False)
    np.testing.assert_array_equal(same, scale)
    learned = adaround(rows, scale, 4, data)
    assert data.error(q * scale).sum() < 1.2 * data.error(learned * scale).sum()


def test_deep_layers_and_blocks():
    # More inputs than a block; inputs that are always zero.
    rows, data = problem(1, 4, 150)
    data.xx[:, 100:], data.xx[:, :, 100:], data.yx[..., 100:] = 0, 0, 0
    scale = steps(rows, 4)
    q, fitted = gptq(rows, scale, 4, data)
    assert data.error(q * fitted).sum() < 0.5 * data.error(nearest(rows, scale, 4) * scale).sum()


def test_channels_of_almost_zero_weights_raise_no_warning():
    rows, data = problem(1, 3, 8)
    rows[:, 1] *= 1e-25
    data.yx[:, 1] *= 1e-25
    data.yy[:, 1] *= 1e-50
    scale = np.maximum(steps(rows, 4), 1e-30)
    with np.errstate(all="raise", under="ignore"):
        q, fitted = gptq(rows, scale, 4, data)
    assert np.isfinite(fitted).all() and q.min() >= -8 and q.max() <= 7


def test_a_channel_without_signal_keeps_its_nearest_levels():
    rows, data = problem(1, 2, 6)
    data = Moments(data.xx * 0, data.yx * 0, data.yy * 0, data.x_mean, data.y_mean)
    scale = steps(rows, 4)
    for q in (gptq(rows, scale, 4, data)[0], adaround(rows, scale, 4, data)):
        np.testing.assert_array_equal(q, nearest(rows, scale, 4))
