"""Operators between layers stay in integers, exact on the device and close to float."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, build, float_operators

from tvmquant.recipe import Recipe

IMAGE = (1, 3, 10, 14)
SEQUENCE = (1, 4, 20)


def i64(*values):
    return np.array(values, np.int64)


def f32(*values):
    return np.array(values, np.float32)


def chain(shape, *steps):
    """A network of unary steps ``(net, tensor) -> tensor``."""

    def make(net):
        y = net.input(*shape)
        for step in steps:
            y = step(net, y)
        return y

    return make


def conv(c, o, k=3, **attrs):
    return lambda net, y: net.conv(y, c, o, k, **attrs)


def dense(k, o):
    return lambda net, y: net.dense(y, k, o)


def op(kind, *args, **attrs):
    return lambda net, y: net.op(kind, y, *args, **attrs)


def transposed(c, o, kernel, group=1, **attrs):
    def step(net, y):
        weight = net.weight(c, o // group, *kernel, scale=0.2)
        return net.op("ConvTranspose", y, weight, net.weight(o, scale=0.2), group=group, **attrs)

    return step


def batch_norm(channels):
    def step(net, y):
        spread = np.abs(net.rng.standard_normal(channels)).astype(np.float32) + 0.5
        return net.op("BatchNormalization", y, *(net.weight(channels) for _ in range(3)), spread)

    return step


def branches(join, first=8, second=8, out=8):
    """Two convolutions of one tensor, joined, and a convolution of that."""

    def make(net):
        x = net.op("Relu", net.conv(net.input(*IMAGE), 3, 8))
        y = join(net, x, net.conv(x, 8, first), net.op("Relu", net.conv(x, 8, second)))
        return net.conv(y, out, 4)

    return make


def attention_scores(net):
    x = net.input(2, 6, 16)
    keys = net.op("Transpose", net.dense(x, 16, 8), perm=[0, 2, 1])
    return net.dense(net.op("MatMul", net.dense(x, 16, 8), keys), 6, 4)


def gate(pool, squash):
    """Squeeze and excitation."""

    def make(net):
        x = net.op("HardSwish", net.conv(net.input(*IMAGE), 3, 8))
        y = net.op("Relu", net.conv(pool(net, x), 8, 4, 1))
        return net.conv(net.op("Mul", x, net.op(squash, net.conv(y, 4, 8, 1))), 8, 4)

    return make


def split(net):
    x = net.op("Relu", net.conv(net.input(*IMAGE), 3, 8))
    a, b = net.op("Split", x, i64(3, 5), outputs=2, axis=1)
    c, d = net.op("Split", net.conv(a, 3, 6), i64(4, 6), outputs=2, axis=2)
    joined = net.op("Concat", d, c, axis=2)
    return net.conv(net.op("Concat", joined, net.conv(b, 5, 2), axis=1), 8, 4)


def gemm(net):
    a = net.op(
        "Gemm", net.input(16, 4), net.weight(24, 16, scale=0.2), net.weight(24), transA=1, transB=1
    )
    last = net.weight(24, 10, scale=0.2), net.weight(1, 10)
    return net.op("Gemm", net.op("Relu", a), *last, alpha=0.5, beta=2.0)


RELU = op("Relu")
START, END = (conv(3, 8), RELU), (conv(8, 8),)
NETWORKS = {
    "strides and asymmetric padding": chain(
        IMAGE, conv(3, 8), RELU, conv(8, 8, strides=[2, 1]), conv(8, 6, (1, 3), pads=[0, 2, 0, 0])
    ),
    "dilation": chain(
        IMAGE, *START, conv(8, 8, (5, 3), dilations=[1, 3], pads=[1, 0, 3, 2]), RELU, *END
    ),
    "groups and depthwise": chain(
        IMAGE, *START, conv(8, 12, group=4), RELU, conv(12, 12, group=12), conv(12, 24, group=12)
    ),
    "auto_pad": chain(
        IMAGE,
        *START,
        conv(8, 8, strides=[2, 2], auto_pad="SAME_UPPER"),
        conv(8, 8, strides=[2, 2], auto_pad="SAME_LOWER"),
    ),
    "conv1d": chain(
        SEQUENCE,
        conv(4, 8, (3,)),
        RELU,
        conv(8, 8, (3,), strides=[2], pads=[0, 2]),
        batch_norm(8),
        RELU,
        conv(8, 8, (5,), group=8, dilations=[2], pads=[4, 4]),
        op("MaxPool", kernel_shape=[2], strides=[2]),
        op("AveragePool", kernel_shape=[3], strides=[1], pads=[1, 1]),
        conv(8, 4, (1,)),
        RELU,
        op("GlobalAveragePool"),
        op("Flatten"),
        dense(4, 3),
    ),
    "transposed": chain(
        IMAGE,
        *START,
        transposed(8, 6, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        batch_norm(6),
        RELU,
        transposed(6, 6, (3, 2), group=3, strides=[3, 1], dilations=[2, 2]),
        op("HardSwish"),
        conv(6, 4),
    ),
    "transposed 1d": chain(
        SEQUENCE,
        conv(4, 8, (3,)),
        RELU,
        transposed(8, 6, (4,), strides=[2], pads=[1, 1]),
        RELU,
        conv(6, 4, (3,)),
    ),
    "matmul of a vector": chain((16,), dense(16, 24), RELU, dense(24, 5)),
    "matmul 3d": chain((2, 7, 16), dense(16, 24), op("Tanh"), dense(24, 24), RELU, dense(24, 5)),
    "matmul 4d": chain((2, 3, 5, 16), dense(16, 24), RELU, dense(24, 24), RELU, dense(24, 5)),
    "gemm": gemm,
    "batched matmul": attention_scores,
    "add": branches(lambda net, x, a, b: net.op("Relu", net.op("Add", a, b))),
    "residual": branches(lambda net, x, a, b: net.op("Add", net.op("Sub", x, a), b)),
    "mul": branches(lambda net, x, a, b: net.op("Mul", a, b)),
    "doubled": branches(lambda net, x, a, b: net.op("Mul", a, net.op("Add", b, b))),
    "concat": branches(lambda net, x, a, b: net.op("Concat", a, x, b, axis=1), 5, 7, 20),
    "gate": gate(op("GlobalAveragePool"), "HardSigmoid"),
    "gate by a mean": gate(op("ReduceMean", i64(2, 3), keepdims=1), "Sigmoid"),
    "max pool": chain(
        IMAGE,
        conv(3, 8),
        op("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1),
        *END,
    ),
    "average pool": chain(
        IMAGE, *START, op("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), *END
    ),
    "average pool with padding": chain(
        IMAGE,
        *START,
        op(
            "AveragePool",
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1, 1, 0, 0],
            count_include_pad=1,
            ceil_mode=1,
        ),
        *END,
    ),
    "global pools": chain(
        IMAGE, *START, op("GlobalMaxPool"), conv(8, 8, 1), op("Flatten"), dense(8, 4)
    ),
    "means": chain(
        IMAGE,
        *START,
        op("ReduceMean", i64(3), keepdims=0),
        op("ReduceSum", i64(2), keepdims=0),
        dense(8, 4),
    ),
    "flatten": chain(IMAGE, *START, op("Flatten"), dense(8 * 140, 6)),
    "reshape": chain(IMAGE, *START, op("Reshape", i64(2, -1)), dense(560, 6)),
    "transpose": chain(
        IMAGE, *START, op("Transpose", perm=[0, 2, 3, 1]), dense(8, 6), RELU, dense(6, 6)
    ),
    "swapped sides": chain(IMAGE, *START, op("Transpose", perm=[0, 1, 3, 2]), *END),
    "reflected borders": chain(
        IMAGE, *START, op("Pad", i64(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"), *END
    ),
    "pad": chain(IMAGE, *START, op("Pad", i64(0, 1, 1, 2, 0, 3, 3, 0)), conv(12, 8)),
    "slice": chain(IMAGE, *START, op("Slice", i64(1, 2), i64(9, 8), i64(2, 1)), conv(6, 8)),
    "reversed slice": chain(IMAGE, *START, op("Slice", i64(-1), i64(-99), i64(3), i64(-1)), *END),
    "split": split,
    "resize": chain(
        IMAGE,
        *START,
        op(
            "Resize",
            "",
            f32(1, 1, 2, 2),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        *END,
    ),
    "resize to a size": chain(IMAGE, *START, op("Resize", "", "", i64(1, 8, 15, 20)), *END),
    "squeeze and unsqueeze": chain(
        (1, 3, 1, 14),
        conv(3, 8, (1, 3)),
        RELU,
        op("Squeeze", i64(2)),
        conv(8, 8, (3,)),
        RELU,
        op("Unsqueeze", i64(2)),
        conv(8, 4, (1, 3)),
    ),
    "depth to space": chain(IMAGE, *START, op("DepthToSpace", blocksize=2), conv(2, 4)),
    "channel shuffle": chain(
        IMAGE,
        *START,
        op("Reshape", i64(1, 2, 4, 10, 14)),
        op("Transpose", perm=[0, 2, 1, 3, 4]),
        op("Reshape", i64(1, 8, 10, 14)),
        *END,
    ),
    "gather": chain(IMAGE, *START, op("Gather", i64(0, 3, 2), axis=1), conv(3, 4)),
    "batch norm first": chain(IMAGE, *START, batch_norm(8), *END),
    "learned scale": chain(
        IMAGE,
        conv(3, 8),
        lambda net, y: net.op("Add", net.op("Mul", y, net.weight(8, 1, 1)), net.weight(1, 8, 1, 1)),
        RELU,
        *END,
    ),
    "batch": chain(
        (3, 3, 6, 6), *START, conv(8, 8), op("GlobalAveragePool"), op("Flatten"), dense(8, 4)
    ),
}


def finished(name):
    net = Net(opset=20)
    return net.model(NETWORKS[name](net)), net.data(3)


@pytest.mark.parametrize("name", NETWORKS)
def test_runs_in_integers(name):
    model, data = finished(name)
    built = build(model, data)
    assert float_operators(built.integers) == []
    built.assert_exact(data)
    built.assert_close(model, data, 0.995)


@pytest.mark.parametrize("flavour", ["fixed_point", "power_of_two"])
@pytest.mark.parametrize(
    "name", ["groups and depthwise", "transposed", "gemm", "batched matmul", "residual", "concat",
             "gate", "average pool", "batch"],
)  # fmt: skip
def test_requantize_flavours(name, flavour):
    model, data = finished(name)
    built = build(model, data, recipe=Recipe(requantize=flavour))
    assert float_operators(built.integers) == []
    built.assert_exact(data)
    built.assert_close(model, data, 0.99)


@pytest.mark.parametrize("bits", [4, 2, 1, "w4a8"])
@pytest.mark.parametrize(
    "name", ["dilation", "groups and depthwise", "transposed", "matmul 3d", "residual", "split"]
)
def test_low_bits_are_exact(name, bits):
    model, data = finished(name)
    built = build(model, data, recipe=Recipe.for_bits(bits, first_last_bits=None))
    assert float_operators(built.integers) == []
    built.assert_exact(data)
