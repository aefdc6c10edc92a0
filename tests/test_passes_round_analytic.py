"""Rounding by second moments that are derived, not measured."""

import numpy as np
import pytest
from networks import Net
from tvm import relax

from tvmquant.calibration.columns import columns
from tvmquant.calibration.spread import Spread
from tvmquant.calibration.weights import quantize_weight
from tvmquant.frontend import load_model
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.ops.waist import dequantize
from tvmquant.passes.round_analytic import NEIGHBOURS, analytic_moments, round_analytic
from tvmquant.passes.simplify import simplify


def layer(group=1):
    net = Net(2)
    model = net.model(net.conv(net.input(1, 4, 16, 16), 4, 8, bias=False, group=group))
    mod = simplify(load_model(model).mod)
    call = next(e for _, e in Graph(mod).bindings if name_of(e) == "nn.conv2d")
    return call, const_value(call.args[1])


def pixels(std, seed=0, size=200):
    """Independent channels ``[1, H, W, C]``, neighbours of which agree by ``NEIGHBOURS``."""
    x = np.random.default_rng(seed).standard_normal((size, size, len(std)))
    fresh = np.sqrt(1 - NEIGHBOURS**2)
    for axis in range(2):
        lines = np.moveaxis(x, axis, 0)
        for i in range(1, size):
            lines[i] = NEIGHBOURS * lines[i - 1] + fresh * lines[i]
    return (x * std)[None].astype(np.float32)


@pytest.mark.parametrize("group", [1, 2])
def test_moments_are_those_of_such_pixels(group):
    call, weight = layer(group)
    std = np.array([0.2, 1.0, 2.0, 0.5])
    found = analytic_moments(call, weight, Spread.normal(np.zeros(4), std))
    x = columns(pixels(std), call).astype(np.float64)
    want = x.transpose(0, 2, 1) @ x / x.shape[1]
    np.testing.assert_allclose(found.xx, want, atol=0.05 * want.max())


def test_it_beats_rounding_to_nearest_on_such_pixels():
    call, weight = layer()
    std = np.array([0.2, 1.0, 2.0, 0.5])
    q, scale = quantize_weight(weight, bits=2, axis=0, estimator="mse")
    zero = relax.const(np.zeros(len(scale), np.int8))
    node = dequantize(relax.const(q), relax.const(scale), zero, bits=2, axis=0)
    new, steps = round_analytic(call, node, weight, Spread.normal(np.zeros(4), std))
    assert new.shape == q.shape and new.dtype == np.int8
    assert new.min() >= -2 and new.max() <= 1
    x = columns(pixels(std, seed=1), call)[0]

    def error(integers, by):
        rows = (integers * by.reshape(-1, 1, 1, 1) - weight).reshape(len(weight), -1)
        return np.mean((x @ rows.T) ** 2)

    assert error(new, steps) < 0.7 * error(q, scale)
    eight = dequantize(relax.const(q), relax.const(scale), zero, bits=8, axis=0)
    assert round_analytic(call, eight, weight, Spread.normal(np.zeros(4), std)) is None
