"""Networks whose softmax, layer norm or sorting stay in float between integer layers."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, build, float_operators, operators

I64 = np.int64


def heads(net, x, order):
    y = net.op("Reshape", net.dense(x, 16, 16), np.array([2, 5, 4, 4], I64))
    return net.op("Transpose", y, perm=order)


def transformer(net):
    x = net.input(2, 5, 16)
    query = net.op("Mul", heads(net, x, [0, 2, 1, 3]), np.float32(0.5))
    scores = net.op("Softmax", net.op("MatMul", query, heads(net, x, [0, 2, 3, 1])))
    y = net.op("MatMul", scores, heads(net, x, [0, 2, 1, 3]))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), np.array([2, 5, 16], I64))
    y = net.op("Add", x, net.dense(y, 16, 16))
    y = net.op("LayerNormalization", y, net.weight(16), net.weight(16))
    return net.op("Add", y, net.dense(net.op("Gelu", net.dense(y, 16, 32)), 32, 16))


def normed(net):
    y = net.conv(net.input(1, 3, 8, 8), 3, 8)
    y = net.op("InstanceNormalization", y, net.weight(8), net.weight(8))
    return net.conv(net.op("Relu", y), 8, 4)


def summed(net):
    y = net.op("Relu", net.conv(net.input(1, 3, 8, 8), 3, 8))
    return net.conv(net.op("CumSum", y, np.array(2, I64)), 8, 4)


def sorted_scores(net):
    y = net.op("Flatten", net.conv(net.input(1, 3, 8, 8), 3, 4))
    return net.op("TopK", y, np.array([5], I64), outputs=2)[0]


def enlarged(net):
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 7), 3, 8))
    scales = np.array([1, 1, 2, 2], np.float32)
    return net.conv(net.op("Resize", y, "", scales, mode="linear"), 8, 4)


def volumes(net):
    y = net.op("Relu", net.conv(net.input(1, 2, 4, 5, 6), 2, 4, (3, 3, 3)))
    return net.conv(y, 4, 2, (3, 3, 3))


CASES = [transformer, normed, summed, sorted_scores, enlarged, volumes]


@pytest.mark.parametrize("make", CASES)
def test_close_to_the_interpreter_and_to_float(make):
    net = Net(opset=20)
    model, data = net.model(make(net)), net.data(3)
    built = build(model, data)
    for feeds in data:
        for got, want in zip(built.run(feeds), built.interpret(feeds), strict=True):
            # A rounding of the float part may move a single integer after it.
            near = np.isclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
            assert np.mean(near) > 0.99
    built.assert_close(model, data, 0.99)


@pytest.mark.parametrize("bits", [8, 4])
def test_only_softmax_and_norm_are_float_in_a_transformer(bits):
    net = Net(opset=20)
    model, data = net.model(transformer(net)), net.data(3)
    built = build(model, data, bits)
    computing = set(float_operators(built.integers)) - {"tvmquant.batch_matmul", "tvmquant.matmul"}
    assert computing == {"nn.softmax", "nn.layer_norm", "add"}
    assert operators(built.integers).count("tvmquant.batch_matmul") == 2
    assert operators(built.integers).count("tvmquant.matmul") == 6
    if bits == 4:
        built.assert_close(model, data, 0.95)
