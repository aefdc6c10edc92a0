"""Numbers that go wrong easily: dead, huge and tiny weights, constant data. Exact and finite."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, build, cosine, run_onnx

from tvmquant.errors import CalibrationWarning
from tvmquant.recipe import Recipe

F = np.float32
WEIGHT = (np.random.default_rng(0).standard_normal((8, 3, 3, 3)) * 0.2).astype(F)
BIAS = np.random.default_rng(1).standard_normal(8).astype(F)


def network(weight, bias=None):
    net = Net()
    args = [net.input(1, 3, 8, 8), weight] + ([] if bias is None else [bias])
    y = net.op("Relu", net.op("Conv", *args, pads=[1] * 4))
    return net, net.conv(y, 8, 4)


def scaled(**factors):
    weight = WEIGHT.copy()
    for channel, factor in factors.items():
        weight[int(channel[1:])] *= F(factor)
    return weight


ONE_HUGE = np.where(np.arange(8) == 3, 1e6, 0).astype(F)
CASES = {
    "dead channels": (scaled(c2=0, c5=0), BIAS),
    "dead layer": (WEIGHT * 0, None),
    "dead layer with a bias": (WEIGHT * 0, BIAS),
    "tiny channels": (scaled(c1=1e-20, c3=1e-35, c4=1e-42), BIAS),
    "tiny layer": (scaled(**{f"c{i}": 1e-20 for i in range(8)}), None),
    "huge layer": (scaled(**{f"c{i}": 1e20 for i in range(8)}), None),
    "huge biases": (WEIGHT, (BIAS * 1e5).astype(F)),
    "one huge bias": (WEIGHT, ONE_HUGE),
    "one enormous bias": (WEIGHT, ONE_HUGE * F(1e24)),
    "outlying weights": (np.where(np.abs(WEIGHT) > 0.55, WEIGHT * F(1e4), WEIGHT), BIAS),
}


@pytest.mark.parametrize("flavour", ["float", "fixed_point", "power_of_two"])
@pytest.mark.parametrize("name", CASES)
def test_weights(name, flavour):
    net, y = network(*CASES[name])
    model, data = net.model(y), net.data(3)
    built = build(model, data, recipe=Recipe(requantize=flavour))
    built.assert_exact(data)
    built.assert_close(model, data, 0.995)


@pytest.mark.parametrize("bits", [4, 2, 1])
@pytest.mark.parametrize("name", ["dead channels", "dead layer with a bias", "tiny channels"])
def test_weights_at_low_bits(name, bits):
    net, y = network(*CASES[name])
    model, data = net.model(y), net.data(2)
    built = build(model, data, recipe=Recipe.for_bits(bits, first_last_bits=None))
    built.assert_exact(data)


def test_dead_channels_stay_silent_at_one_bit():
    """±1 cannot say zero: a dead channel must not add the sum of its inputs."""
    net, x = Net(), "x0"
    net.input(1, 3, 8, 8)
    y = net.op("Conv", x, scaled(c2=0, c5=0), BIAS, pads=[1] * 4)
    model, data = net.model(y), net.data(2)
    built = build(model, data, "w1a8", recipe=Recipe.for_bits("w1a8", first_last_bits=None))
    built.assert_exact(data)
    for feeds in data:
        for channel in (2, 5):
            np.testing.assert_allclose(built.run(feeds)[0][:, channel], BIAS[channel], rtol=1e-3)


INPUTS = {
    "constant": lambda shape: np.full(shape, 0.5, F),
    "zero": lambda shape: np.zeros(shape, F),
    "negative": lambda shape: np.full(shape, -1, F),
    "tiny": lambda shape: (np.random.default_rng(0).standard_normal(shape) * 1e-25).astype(F),
    "huge": lambda shape: (np.random.default_rng(0).standard_normal(shape) * 1e25).astype(F),
}


@pytest.mark.parametrize("bits", [8, 2])
@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name, bits):
    net, y = network(WEIGHT, None)
    model = net.model(y)
    data = [{"x0": INPUTS[name]((1, 3, 8, 8))}] * 2
    built = build(model, data, bits)
    built.assert_exact(data)
    if bits == 8:
        built.assert_close(model, data, 0.995)


GRAPHS = {
    "difference of equals": lambda net, x: net.op("Sub", x, x),
    "times zero": lambda net, x: net.op("Mul", x, F(0)),
    "plus a million": lambda net, x: net.op("Add", x, F(1e6)),
    "scales apart": lambda net, x: net.op(
        "Add",
        net.op("Mul", net.conv(x, 8, 8), F(1e-9)),
        net.op("Mul", net.conv(x, 8, 8), F(1e6)),
    ),
    "dead relu": lambda net, x: net.op(
        "Relu", net.op("Conv", x, -np.abs(net.rng.standard_normal((8, 8, 3, 3))).astype(F))
    ),
    "no variance": lambda net, x: net.op(
        "BatchNormalization", net.conv(x, 8, 8), *(net.weight(8) for _ in range(3)), np.zeros(8, F)
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name):
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 8, 8), 3, 8))
    model, data = net.model(net.conv(GRAPHS[name](net, x), 8, 4)), net.data(3)
    built = build(model, data)
    built.assert_exact(data)
    built.assert_close(model, data, 0.99)


def test_averages_are_right_when_only_shifts_are_allowed():
    """The divisor of a mean is no power of two; rounding it to one would be off by a third."""
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 6, 8), 3, 8))
    y = net.op("Add", net.op("GlobalAveragePool", x), net.conv(x, 8, 8))
    y = net.op("AveragePool", net.op("Relu", y), kernel_shape=[3, 3], strides=[1, 1])
    model, data = net.model(net.conv(y, 8, 4)), net.data(3)
    built = build(model, data, recipe=Recipe(requantize="power_of_two"))
    built.assert_exact(data)
    for feeds in data:
        (got,), (want,) = built.run(feeds), run_onnx(model, feeds)
        assert cosine(got, want) > 0.999
        assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(want), rel=0.03)


def test_a_network_that_makes_nan_is_warned_of():
    net = Net()
    y = net.op("Log", net.conv(net.input(1, 3, 8, 8), 3, 8), name="log_of_negative")
    model = net.model(net.conv(y, 8, 4))
    with pytest.warns(CalibrationWarning, match=r"NaN or infinite.*log_of_negative"):
        build(model, net.data(1))
