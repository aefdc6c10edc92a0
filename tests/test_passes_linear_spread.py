"""What layers make of distributions."""

import numpy as np
import pytest
from networks import Net

from tvmquant.calibration.spread import Spread
from tvmquant.frontend import load_model
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.passes.linear_spread import expected, linear_spread, tap_shares
from tvmquant.passes.simplify import simplify


def layer(kind):
    net = Net(2)
    if kind == "matmul":
        x, c = net.input(7, 6), 6
        y = net.op("MatMul", x, net.weight(6, 5))
    else:
        attrs = {
            "dense": {},
            "depthwise": {"group": 6},
            "groups": {"group": 2},
            "strided": {"strides": [2, 2], "dilations": [2, 1]},
        }[kind]
        x, c = net.input(1, 6, 9, 7), 6
        y = net.conv(x, 6, 12 if kind != "depthwise" else 6, bias=False, **attrs)
    mod = simplify(load_model(net.model(y)).mod)
    call = next(e for _, e in Graph(mod).bindings if name_of(e) in ("nn.conv2d", "matmul"))
    return mod, call, c


@pytest.mark.parametrize("kind", ["matmul", "dense", "depthwise", "groups", "strided"])
def test_they_agree_with_independent_random_numbers(kind):
    mod, call, channels = layer(kind)
    mean, std = np.linspace(-1, 2, channels), np.linspace(0.3, 1, channels)
    weight = const_value(call.args[1])
    rng = np.random.default_rng(0)
    results = []
    for _ in range(600):
        shape = [int(d) for d in Graph(mod).params[0].ty.shape.values]
        x = rng.standard_normal(shape)
        broadcast = (-1, 1, 1) if kind != "matmul" else (-1,)
        x = x * std.reshape(broadcast) + mean.reshape(broadcast)
        (y,) = Interpreter(mod).run([x.astype(np.float32)])
        y = y if kind == "matmul" else y.transpose(0, 2, 3, 1)
        results.append(y.reshape(-1, y.shape[-1]))
    values = np.concatenate(results)
    np.testing.assert_allclose(expected(call, weight, mean), values.mean(0), atol=0.06)
    made = linear_spread(call, weight, Spread.normal(mean, std))
    np.testing.assert_allclose(made.mean, values.mean(0), atol=0.06)
    inside = results[0].shape[0] == 7  # no padding adds to the variance
    if inside:
        np.testing.assert_allclose(np.sqrt(made.variance), values.std(0), rtol=0.05)
    pooled = expected(call, weight, np.ones(1))
    np.testing.assert_allclose(pooled, expected(call, weight, np.ones(channels)))


def test_taps_that_agree_have_the_larger_variance():
    _, call, channels = layer("dense")
    weight = np.abs(const_value(call.args[1]))
    made = linear_spread(call, weight, Spread.normal(np.zeros(channels), np.ones(channels)))
    together = np.sqrt((weight.sum((1, 2)) ** 2).sum(1))
    np.testing.assert_allclose(np.sqrt(made.variance), together, rtol=1e-3)


def test_shares_of_taps_count_the_padding():
    _, call, _ = layer("dense")
    np.testing.assert_allclose(tap_shares(call), np.outer([8 / 9, 1, 8 / 9], [6 / 7, 1, 6 / 7]))
