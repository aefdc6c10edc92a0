"""Cross-layer equalization and absorption of high biases."""

import numpy as np
import pytest
from networks import Net, interpret

from tvmquant.compiler import quantize
from tvmquant.frontend import load_model
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.passes.equalize import absorb_biases, equalize, find_pairs
from tvmquant.passes.simplify import simplify
from tvmquant.quant_spec import QuantSpec
from tvmquant.recipe import Recipe


def chain(activation="Relu", spread=2.0):
    """conv → depthwise → conv → dense, with channels of very different ranges."""
    net = Net()
    act = (lambda y: net.op(activation, y)) if activation else (lambda y: y)
    y = act(net.conv(net.input(1, 4, 8, 8), 4, 8))
    y = act(net.conv(y, 8, 8, group=8))
    y = act(net.conv(y, 8, 8, 1))
    y = net.conv(y, 8, 6)
    for i, name in enumerate(list(net.constants)):
        value = net.constants[name]
        if value.ndim == 4 and value.shape[0] == 8:
            rng = np.random.default_rng(i)
            factor = np.exp(rng.normal(0, spread, 8)).astype(np.float32)
            net.constants[name] = value * factor.reshape(-1, 1, 1, 1)
    return net, net.model(y)


def simplified(model):
    return simplify(load_model(model).mod)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", ""])
def test_outputs_stay_and_ranges_meet(activation):
    net, model = chain(activation)
    mod = simplified(model)
    pairs = find_pairs(mod)
    assert len(pairs) == 3
    out = equalize(mod)
    for feeds in net.data(3):
        (want,), (got,) = (interpret(m, list(feeds.values())) for m in (mod, out))
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    graph = Graph(out)
    layers = [const_value(v.args[1]) for _, v in graph.bindings if name_of(v) == "nn.conv2d"]
    first, depthwise, third, last = layers
    np.testing.assert_allclose(
        np.abs(first).max((1, 2, 3)), np.abs(depthwise).max((1, 2, 3)), rtol=0.02
    )
    np.testing.assert_allclose(
        np.abs(depthwise).max((1, 2, 3)), np.abs(third).max((0, 1, 2)), rtol=0.02
    )
    np.testing.assert_allclose(np.abs(third).max((1, 2, 3)), np.abs(last).max((0, 1, 2)), rtol=0.02)


def test_it_saves_a_network_with_one_scale_per_layer():
    net, model = chain(spread=1.5)
    feeds = net.data(8)
    weights = QuantSpec(symmetric=True, granularity="per_tensor")
    mod = simplified(model)

    def error(**changes):
        recipe = Recipe(weights=weights, first_last_bits=None, **changes)
        qdq = quantize(model, recipe=recipe, calibration=feeds).mod
        pairs = [[interpret(m, list(f.values()))[0] for m in (mod, qdq)] for f in feeds]
        return sum(np.sum((a - b) ** 2) for a, b in pairs)

    assert error(equalize=True) < 0.5 * error()


def test_branches_relu6_and_groups_are_left_alone():
    net = Net()
    x = net.input(1, 4, 6, 6)
    y = net.op("Relu", net.conv(x, 4, 4))
    z = net.op("Clip", net.conv(y, 4, 4), np.float32(0), np.float32(6))
    z = net.conv(z, 4, 4)
    w = net.conv(net.op("Relu", z), 4, 4, group=2)
    mod = simplified(net.model(net.op("Add", y, w)))
    assert find_pairs(mod) == []


def test_dead_channels_stay_finite():
    net, model = chain()
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [8, 1, 3, 3]:
            raw = np.frombuffer(tensor.raw_data, np.float32).copy()
            raw[:9] = 0
            tensor.raw_data = raw.tobytes()
    mod = equalize(simplified(model))
    for feeds in net.data(1):
        assert np.isfinite(interpret(mod, list(feeds.values()))[0]).all()


def test_high_biases_move_on():
    net = Net()
    y = net.conv(net.input(1, 3, 5, 5), 3, 4, name="first")
    model = net.model(net.conv(net.op("Relu", y), 4, 2, 1))
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [4]:
            tensor.raw_data = np.array([30, 0.1, 40, -5], np.float32).tobytes()
    mod = simplified(model)
    out = absorb_biases(mod, [list(feeds.values()) for feeds in net.data(8)])
    for feeds in net.data(3):
        (want,), (got,) = (interpret(m, list(feeds.values())) for m in (mod, out))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    def biases(module):
        return [
            const_value(v.args[1]).reshape(-1)
            for _, v in Graph(module).bindings
            if name_of(v) == "add"
        ]

    before, after = biases(mod)[0], biases(out)[0]
    assert after[0] < 10 and after[2] < 15
    np.testing.assert_array_equal(after[[1, 3]], before[[1, 3]])
    assert not np.array_equal(biases(mod)[1], biases(out)[1])
