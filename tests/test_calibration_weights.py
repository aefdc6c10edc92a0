"""Symmetric weights: per channel or tensor, any bits."""

from __future__ import annotations

import numpy as np
import pytest

from tvmquant.calibration import quantize_channels, quantize_weight

W = np.random.default_rng(0).standard_normal((6, 3, 3, 5)).astype(np.float32)


def restored(q, scale, axis):
    shape = [1] * q.ndim
    shape[axis] = -1
    return q * (scale.reshape(shape) if scale.size > 1 else scale)


@pytest.mark.parametrize("estimator", ["minmax", "mse", "entropy", "aciq", "fixed_point"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("axis", [0, 3])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_error_is_at_most_half_a_step(bits, axis, granularity, estimator):
    q, scale = quantize_weight(
        W, bits=bits, axis=axis, granularity=granularity, estimator=estimator
    )
    assert q.dtype == np.int8
    assert q.shape == W.shape
    assert scale.dtype == np.float32
    assert scale.shape == ((1,) if granularity == "per_tensor" else (W.shape[axis],))
    assert -(2 ** (bits - 1)) <= q.min() <= q.max() <= 2 ** (bits - 1) - 1
    error = np.abs(restored(q, scale, axis) - W)
    if estimator == "minmax":
        assert np.all(error <= restored(np.ones(W.shape), scale, axis) * 0.5001)
        assert q.max() == 2 ** (bits - 1) - 1 or q.min() == -(2 ** (bits - 1))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_searched_scales_have_less_error(bits):
    def error(estimator):
        q, scale = quantize_weight(W, bits=bits, axis=0, estimator=estimator)
        return ((restored(q, scale, 0) - W) ** 2).sum((1, 2, 3))

    assert np.all(error("mse") <= error("minmax") * 1.0001)


@pytest.mark.parametrize("estimator", ["entropy", "aciq"])
def test_a_clipping_estimator_beats_min_max_on_long_tails(estimator):
    rng = np.random.default_rng(0)
    w = rng.laplace(size=(4, 3, 3, 500)).astype(np.float32)
    errors = {}
    for name in (estimator, "minmax"):
        q, scale = quantize_weight(w, bits=4, axis=0, estimator=name)
        errors[name] = ((restored(q, scale, 0) - w) ** 2).mean((1, 2, 3))
    assert np.all(errors[estimator] < errors["minmax"])


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    q, scale = quantize_weight(W, bits=1, axis=0)
    np.testing.assert_array_equal(q, np.where(W >= 0, 1, -1))
    np.testing.assert_allclose(scale, np.abs(W).mean((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_power_of_two(bits):
    q, scale = quantize_weight(W, bits=bits, axis=0, power_of_two=True)
    np.testing.assert_array_equal(np.frexp(scale)[0], 0.5)
    if bits > 1:  # rounded up: nothing is clipped
        error = np.abs(restored(q, scale, 0) - W)
        assert np.all(error <= scale.reshape(-1, 1, 1, 1) * 0.5001)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("estimator", ["minmax", "mse"])
def test_dead_and_vanishing_channels(bits, estimator):
    w = W.copy()
    w[1], w[2] = 0, W[2] * np.float32(1e-42)
    q, scale = quantize_weight(w, bits=bits, axis=0, estimator=estimator)
    assert np.all(np.isfinite(scale))
    assert np.all(scale > 0)
    assert np.abs(restored(q, scale, 0)[1:3]).max() < 1e-29


def test_every_channel_at_its_own_bits():
    w = np.random.default_rng(0).standard_normal((3, 20, 6)).astype(np.float32)
    widths = [2, 8, 4, 2, 8, 4]
    q, scale = quantize_channels(w, widths, axis=2, estimator="mse")
    for channel, bits in enumerate(widths):
        estimator = "minmax" if bits == 8 else "mse"
        own = w[..., channel : channel + 1]
        want, step = quantize_weight(own, bits=bits, axis=2, estimator=estimator)
        np.testing.assert_array_equal(q[..., channel : channel + 1], want)
        assert scale[channel] == step[0]
