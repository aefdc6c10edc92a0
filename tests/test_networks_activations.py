"""Every elementwise function of one tensor is a table or a clamp, whatever operators write it."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, build, float_operators, operators

F = np.float32
TABLES = {
    "HardSwish": {},
    "Sigmoid": {},
    "Tanh": {},
    "Erf": {},
    "Gelu": {},
    "LeakyRelu": {"alpha": 0.1},
    "ThresholdedRelu": {"alpha": 0.5},
    "Elu": {},
    "Selu": {},
    "Softplus": {},
    "Softsign": {},
    "Mish": {},
    "Abs": {},
    "Neg": {},
    "Exp": {},
    "Sin": {},
    "Cosh": {},
    "Atan": {},
}
COMPOSED = {
    "silu": lambda net, x: net.op("Mul", x, net.op("Sigmoid", x)),
    "gelu by erf": lambda net, x: net.op(
        "Mul",
        net.op("Mul", x, F(0.5)),
        net.op("Add", net.op("Erf", net.op("Div", x, F(2**0.5))), F(1)),
    ),
    "gelu by tanh": lambda net, x: net.op("Gelu", x, approximate="tanh"),
    "hardswish by clip": lambda net, x: net.op(
        "Div", net.op("Mul", x, net.op("Clip", net.op("Add", x, F(3)), F(0), F(6))), F(6)
    ),
    "prelu": lambda net, x: net.op("PRelu", x, net.weight(8, 1, 1)),
    "one slope": lambda net, x: net.op("PRelu", x, np.full(1, 0.3, F)),
    "affine": lambda net, x: net.op(
        "Add", net.op("Mul", net.op("Relu", x), net.weight(8, 1, 1)), net.weight(1, 8, 1, 1)
    ),
    "where": lambda net, x: net.op(
        "Where", net.op("Greater", x, F(0.2)), net.op("Sqrt", net.op("Abs", x)), net.op("Mul", x, x)
    ),
    "from a constant": lambda net, x: net.op("Sub", F(1), net.op("Pow", x, F(2))),
    "reciprocal": lambda net, x: net.op("Div", F(1), net.op("Add", net.op("Abs", x), F(1))),
}
CLAMPS = {
    "relu": lambda net, x: net.op("Relu", x),
    "relu6": lambda net, x: net.op("Clip", x, F(0), F(6)),
    "clip": lambda net, x: net.op("Clip", x, F(-0.5), F(1)),
    "upper bound": lambda net, x: net.op("Min", x, F(0.7)),
    "lower bound": lambda net, x: net.op("Clip", x, F(-0.3)),
    "relu twice": lambda net, x: net.op("Clip", net.op("Relu", x), F(-1), F(0.8)),
    "hard sigmoid": lambda net, x: net.op("HardSigmoid", x),
}


def between_layers(activation, opset=20):
    net = Net(opset=opset)
    y = net.conv(net.input(1, 3, 8, 8), 3, 8)
    return net, net.conv(activation(net, y), 8, 8)


def check(activation, expected):
    net, y = between_layers(activation)
    model, data = net.model(y), net.data(3)
    built = build(model, data)
    assert float_operators(built.integers) == []
    middle = [n for n in operators(built.integers) if n.startswith("tvmquant.")][1:]
    assert middle == expected
    built.assert_exact(data)
    built.assert_close(model, data, 0.99)


@pytest.mark.parametrize("kind", TABLES)
def test_operator_is_one_table(kind):
    step = lambda net, x: net.op(kind, x, **TABLES[kind])  # noqa: E731
    check(step, ["tvmquant.conv2d", "tvmquant.lut", "tvmquant.conv2d"])


@pytest.mark.parametrize("name", COMPOSED)
def test_several_operators_are_one_table(name):
    check(COMPOSED[name], ["tvmquant.conv2d", "tvmquant.lut", "tvmquant.conv2d"])


@pytest.mark.parametrize("name", CLAMPS)
def test_clamps_cost_nothing(name):
    check(CLAMPS[name], ["tvmquant.conv2d", "tvmquant.conv2d"])


def test_two_activations_of_one_layer_are_two_tables():
    net = Net()
    x = net.conv(net.input(1, 3, 8, 8), 3, 8)
    a, b = net.op("Tanh", x), net.op("LeakyRelu", x, alpha=0.3)
    model, data = net.model(net.conv(net.op("Concat", a, b, axis=1), 16, 4)), net.data(3)
    built = build(model, data)
    assert operators(built.integers).count("tvmquant.lut") == 2
    assert float_operators(built.integers) == []
    built.assert_exact(data)
    built.assert_close(model, data, 0.995)


@pytest.mark.parametrize("bits", [4, 2, 1, "w4a8"])
def test_low_bits(bits):
    net, y = between_layers(COMPOSED["hardswish by clip"])
    model, data = net.model(net.conv(net.op("Sigmoid", y), 8, 8)), net.data(2)
    built = build(model, data, bits)
    assert float_operators(built.integers) == []
    built.assert_exact(data)
