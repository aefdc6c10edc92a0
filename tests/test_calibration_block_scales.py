"""Scales that blocks of weights share."""

import numpy as np
import pytest
from test_calibration_rounding import problem

from tvmquant.calibration.adaround import adaround
from tvmquant.calibration.block_scales import BlockScales
from tvmquant.calibration.gptq import Levels, gptq
from tvmquant.calibration.moments import Moments


def block_scale(rows, spread, bits):
    pad = spread.count * spread.size - spread.depth
    parts = np.pad(np.abs(rows), ((0, 0), (0, 0), (0, pad)))
    largest = parts.reshape(*rows.shape[:2], spread.count, spread.size).max(-1)
    return largest / (2 ** (bits - 1) - 1)


def test_steps_repeat_the_scale_of_a_block():
    spread = BlockScales(3, 8)
    assert spread.count == 3
    scale = np.array([[[1.0, 2.0, 3.0]]])
    np.testing.assert_array_equal(spread.steps(scale), [[[1, 1, 1, 2, 2, 2, 3, 3]]])
    whole = np.ones((1, 2, 1))
    assert BlockScales(8, 8).steps(whole) is whole


@pytest.mark.parametrize("size", [4, 7, 20])
def test_refitted_scales_are_a_minimum(size):
    rows, data = problem(1, 5, 20)
    spread = BlockScales(size, 20)
    scale = block_scale(rows, spread, 4)
    q = Levels(4).round(rows / spread.steps(scale))
    fitted = spread.refit(q, scale, data)
    best = data.error(q * spread.steps(fitted))
    assert np.all(best <= data.error(q * spread.steps(scale)) + 1e-12)
    for block in range(spread.count):
        for factor in (0.98, 1.02):
            moved = fitted.copy()
            moved[..., block] *= factor
            assert np.all(data.error(q * spread.steps(moved)) >= best * (1 - 1e-6))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("size", [4, 7])
def test_rounding_by_effect_gains_with_blocks(bits, size):
    rows, data = problem(2, 6, 20)
    spread = BlockScales(size, 20)
    scale = block_scale(rows, spread, bits)
    plain = Levels(bits).round(rows / spread.steps(scale)) * spread.steps(scale)
    q, fitted = gptq(rows, scale, bits, data, block=size)
    assert fitted.shape == scale.shape and np.all(fitted > 0)
    assert data.error(q * spread.steps(fitted)).sum() < 0.6 * data.error(plain).sum()
    learned = adaround(rows, spread.steps(scale), bits, data)
    assert data.error(learned * spread.steps(scale)).sum() < 0.8 * data.error(plain).sum()


def test_channels_round_to_their_own_bits():
    rows, data = problem(1, 4, 20)
    widths = np.array([[2, 4, 8, 2]])
    scale = np.abs(rows).max(-1, keepdims=True) / (2.0 ** (widths[..., None] - 1) - 1)
    q, _ = gptq(rows, scale, widths, data)
    learned = adaround(rows, scale, widths, data)
    for made in (q, learned):
        half = 2 ** (widths - 1)
        assert np.all(made.min(-1) >= -half) and np.all(made.max(-1) < half)
        assert made[0, 2].max() > 7


def test_blocks_without_signal_keep_their_scale():
    rows, data = problem(1, 3, 8)
    xx, yx = data.xx.copy(), data.yx.copy()
    xx[:, 4:], xx[:, :, 4:], yx[..., 4:] = 0, 0, 0
    data = Moments(xx, yx, data.yy, data.x_mean, data.y_mean)
    scale = block_scale(rows, BlockScales(4, 8), 4)
    with np.errstate(all="raise", under="ignore"):
        _, fitted = gptq(rows, scale, 4, data, block=4)
    np.testing.assert_array_equal(fitted[..., 1], scale[..., 1])
