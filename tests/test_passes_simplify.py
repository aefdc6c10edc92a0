"""The whole phase on networks as they are exported: float semantics stay, layers become plain."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, assert_same_floats, operators

from tvmquant.frontend import load_model
from tvmquant.passes.simplify import simplify


def norm(net, x, channels):
    spread = np.abs(net.rng.standard_normal(channels)).astype(np.float32) + 0.5
    return net.op("BatchNormalization", x, *(net.weight(channels) for _ in range(3)), spread)


def mobile(net):
    y = net.op("Clip", norm(net, net.conv(net.input(1, 3, 9, 7), 3, 6, bias=False), 6), 0.0, 6.0)
    z = norm(net, net.conv(y, 6, 6, group=6, bias=False), 6)
    return net.op("Add", y, norm(net, net.conv(net.op("Relu", z), 6, 6, 1), 6))


def speech(net):
    y = net.op("Relu", norm(net, net.conv(net.input(2, 4, 16), 4, 8, (5,)), 8))
    y = net.op("MaxPool", y, kernel_shape=[2], strides=[2])
    y = net.op("Relu", norm(net, net.conv(y, 8, 8, (3,), group=8), 8))
    weight = net.weight(8, 4, 4)
    y = net.op("ConvTranspose", y, weight, net.weight(4), strides=[2], pads=[1, 1])
    return net.op("Mul", norm(net, y, 4), net.weight(4, 1))


def decoder(net):
    weight = net.weight(6, 5, 3, 3)
    y = net.op("ConvTranspose", net.input(1, 6, 5, 4), weight, strides=[2, 2], pads=[1, 1, 0, 0])
    return net.conv(net.op("Relu", norm(net, y, 5)), 5, 2)


def attention(net):
    def heads(x, *, order):
        y = net.op("Reshape", net.dense(x, 16, 16), np.array([2, 5, 4, 4]))
        return net.op("Transpose", y, perm=order)

    x = net.input(2, 5, 16)
    query = net.op("Mul", heads(x, order=[0, 2, 1, 3]), np.float32(0.5))
    scores = net.op("MatMul", query, heads(x, order=[0, 2, 3, 1]))
    return net.op("MatMul", net.op("Softmax", scores), heads(x, order=[0, 2, 1, 3]))


CASES = {
    mobile: {"nn.conv2d": 3, "add": 4, "multiply": 0, "permute_dims": 2},
    speech: {"nn.conv2d": 3, "nn.max_pool2d": 1, "add": 3, "multiply": 0},
    decoder: {"nn.conv2d": 2, "add": 2, "multiply": 0, "nn.relu": 1},
    attention: {"matmul": 5, "multiply": 0, "add": 3},
}


@pytest.mark.parametrize("make", CASES)
def test_simplified(make):
    net = Net()
    mod = load_model(net.model(make(net))).mod
    out = simplify(mod)
    assert {name: operators(out).count(name) for name in CASES[make]} == CASES[make]
    for feeds in net.data(2):
        assert_same_floats(mod, out, list(feeds.values()))


def test_simplifying_twice_changes_nothing():
    net = Net()
    once = simplify(load_model(net.model(mobile(net))).mod)
    assert operators(simplify(once)) == operators(once)
