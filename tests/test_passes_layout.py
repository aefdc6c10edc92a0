"""Channels-last, on maps whose four sides all differ."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, assert_same_floats, operators

from tvmquant.frontend import load_model
from tvmquant.graph import Graph, name_of
from tvmquant.passes.canonicalize import canonicalize
from tvmquant.passes.fold_constants import fold_constants
from tvmquant.passes.layout import channels_last

F = np.float32


def i64(*values):
    return np.array(values, np.int64)


# Steps between two convolutions of 4 channels each on [2, 4, 5, 7].
STEPS = {
    "unary": lambda net, x: net.op("Tanh", net.op("LeakyRelu", x)),
    "channel constant": lambda net, x: net.op("Mul", x, net.weight(4, 1, 1)),
    "row constant": lambda net, x: net.op("Add", x, net.weight(7)),
    "full constant": lambda net, x: net.op("Add", x, net.weight(1, 4, 5, 7)),
    "two tensors": lambda net, x: net.op("Add", x, net.conv(x, 4, 4)),
    "gate": lambda net, x: net.op("Mul", x, net.op("GlobalAveragePool", x)),
    "where": lambda net, x: net.op("Where", net.op("Greater", x, F(0)), x, net.op("Neg", x)),
    "concat channels": lambda net, x: net.op(
        "Concat", net.conv(x, 4, 3), net.conv(x, 4, 1), axis=1
    ),
    "concat rows": lambda net, x: net.op("Concat", x, net.conv(x, 4, 4), axis=-2),
    "concat with an input": lambda net, x: net.op(
        "Concat", net.conv(x, 4, 1), net.input(2, 3, 5, 7), axis=1
    ),
    "split": lambda net, x: net.op(
        "Concat", *net.op("Split", x, i64(1, 3), outputs=2, axis=1)[::-1], axis=1
    ),
    "split rows": lambda net, x: net.op("Split", x, i64(2, 3), outputs=2, axis=2)[1],
    "slice": lambda net, x: net.op("Slice", x, i64(1, 2), i64(5, 7), i64(2, 3), i64(1, 2)),
    "slice channels": lambda net, x: net.op(
        "Concat", net.op("Slice", x, i64(-2), i64(9), i64(1)), net.conv(x, 4, 2), axis=1
    ),
    "pad": lambda net, x: net.op("Pad", x, i64(0, 0, 1, 0, 0, 0, 2, 3), F(0.5)),
    "mean of rows": lambda net, x: net.op("ReduceMean", x, i64(2), keepdims=1),
    "mean of channels": lambda net, x: net.op("Mul", x, net.op("ReduceMean", x, i64(1))),
    "maximum": lambda net, x: net.op("Sub", x, net.op("ReduceMax", x, i64(1, -1))),
    "softmax": lambda net, x: net.op("Softmax", x, axis=1),
    "softmax of rows": lambda net, x: net.op("Softmax", x, axis=2),
    "prelu": lambda net, x: net.op("PRelu", x, net.weight(4, 1, 1)),
    "max pool": lambda net, x: net.op(
        "MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]
    ),
    "average pool": lambda net, x: net.op(
        "AveragePool", x, kernel_shape=[2, 3], strides=[1, 2], pads=[0, 1, 1, 0], ceil_mode=1
    ),
    "resize": lambda net, x: net.op("Resize", x, "", np.array([1, 1, 2, 3], F), mode="nearest"),
    "resize linear": lambda net, x: net.op(
        "Resize", x, "", np.array([1, 1, 3, 2], F), mode="linear"
    ),
}
# After the last convolution: what leaves four dimensions.
ENDS = {
    "flatten": lambda net, x: net.op("Flatten", x),
    "pooled and flat": lambda net, x: net.op("Flatten", net.op("GlobalAveragePool", x)),
    "squeezed": lambda net, x: net.op("Squeeze", net.op("GlobalMaxPool", x), i64(2, 3)),
    "squeezed rows": lambda net, x: net.op("Squeeze", net.op("ReduceMean", x, i64(2)), i64(2)),
    "mean": lambda net, x: net.op("ReduceMean", x, i64(1, 3), keepdims=0),
    "mean over sides": lambda net, x: net.op("ReduceMean", x, i64(2, 3), keepdims=0),
    "transposed": lambda net, x: net.op("Transpose", x, perm=[2, 0, 3, 1]),
    "transposed to last": lambda net, x: net.op("Transpose", x, perm=[0, 2, 3, 1]),
    "reshaped": lambda net, x: net.op("Reshape", x, i64(2, 2, -1, 5)),
    "matmul": lambda net, x: net.dense(x, 7, 3),
    "added to a vector": lambda net, x: net.op("Add", x, net.input(7)),
    "gathered": lambda net, x: net.op("Gather", x, i64(3, 0), axis=1),
}


def converted(make):
    net = Net()
    y = make(net, net.conv(net.input(2, 3, 5, 7), 3, 4))
    mod = canonicalize(fold_constants(load_model(net.model(y)).mod))
    out = fold_constants(channels_last(mod))
    assert_same_floats(mod, out, list(net.data(1)[0].values()))
    return out


def permutations(mod):
    """Number of permutations of activations."""
    return operators(mod).count("permute_dims")


@pytest.mark.parametrize("name", STEPS)
def test_between_convolutions_nothing_is_permuted(name):
    mod = converted(lambda net, x: net.conv(STEPS[name](net, x), 4, 6))
    inputs = len(Graph(mod).params)
    assert permutations(mod) == inputs + 1
    for _, value in Graph(mod).bindings:
        if name_of(value) == "nn.conv2d":
            assert str(value.attrs["data_layout"]) == "NHWC"
            assert str(value.attrs["kernel_layout"]) == "OHWI"


@pytest.mark.parametrize("name", ENDS)
def test_leaving_four_dimensions(name):
    mod = converted(ENDS[name])
    assert permutations(mod) <= 2


def test_a_tensor_read_in_both_orders():
    def make(net, x):
        y = net.op("Relu", x)
        flat = net.op("Softmax", net.op("Reshape", y, i64(2, 4, 35)), axis=1)
        return net.op("Add", net.op("Reshape", flat, i64(2, 4, 5, 7)), net.conv(y, 4, 4))

    converted(make)


def test_pooling_of_a_swapped_map_is_channels_last():
    def make(net, x):
        y = net.op("Transpose", x, perm=[0, 1, 3, 2])
        y = net.op("MaxPool", y, kernel_shape=[3, 2])
        return net.op("AveragePool", y, kernel_shape=[1, 2])

    pools = [v for _, v in Graph(converted(make)).bindings if "pool" in (name_of(v) or "")]
    assert [str(value.attrs["layout"]) for value in pools] == ["NHWC", "NHWC"]


def test_nothing_happens_without_convolutions():
    net = Net()
    y = net.op("Softmax", net.op("Relu", net.input(2, 3, 4, 5)), axis=1)
    mod = load_model(net.model(y)).mod
    assert permutations(channels_last(mod)) == 0
